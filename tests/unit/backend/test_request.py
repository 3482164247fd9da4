"""A request to a route's targets: where it goes, how often, and with which bytes."""

from typing import Any, cast

import pytest

from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.headers import HeaderRules, HeaderTransform, Sender
from gripproxy.backend.pool import Pool, Waiter
from gripproxy.backend.request import KEPT_MAX, BackendRequest, Outgoing, RequestBody
from gripproxy.errors import (
    BackendError,
    BlockedError,
    ConnectError,
    ResponseError,
    ResponseTimeout,
)
from gripproxy.http1.head import CHUNKED, Headers, ResponseHead
from gripproxy.routes import Route, Target

FIRST, SECOND = Target("first", 81), Target("second", 82)
OK = ResponseHead(200, b"OK", [], 5, True)


# -- bodies --------------------------------------------------------------------------------------


def test_a_body_is_kept_as_it_arrives() -> None:
    body = RequestBody(5)
    assert (body.content, body.size, body.finished) == (b"", 0, False)
    body.add(b"he", False)
    assert (body.content, body.size, body.finished) == (b"he", 2, False)
    body.add(b"llo", True)
    assert (body.content, body.size, body.finished) == (b"hello", 5, True)


@pytest.mark.parametrize(("length", "finished"), [(0, True), (1, False), (CHUNKED, False)])
def test_a_body_without_bytes_is_finished_before_it_begins(length: int, finished: bool) -> None:
    assert RequestBody(length).finished is finished


def test_a_large_body_is_kept_until_it_was_sent() -> None:
    body = RequestBody(CHUNKED)
    body.add(bytes(3 * KEPT_MAX), True)
    assert body.kept
    assert body.content == bytes(3 * KEPT_MAX)
    body.mark_sent()
    assert not body.kept
    assert body.content is None
    assert body.size == 3 * KEPT_MAX


@pytest.mark.parametrize(("size", "kept"), [(KEPT_MAX, True), (KEPT_MAX + 1, False)])
def test_a_small_body_is_kept_after_that(size: int, kept: bool) -> None:
    body = RequestBody(size)
    body.add(bytes(size), True)
    body.mark_sent()
    assert body.kept is kept


def test_a_body_that_grows_large_after_it_was_sent_is_forgotten() -> None:
    body = RequestBody(CHUNKED)
    body.add(b"x", False)
    body.mark_sent()
    body.add(bytes(KEPT_MAX - 1), False)
    assert body.kept
    body.add(b"x", False)
    assert not body.kept
    body.add(b"x", True)
    assert (body.content, body.size, body.finished) == (None, KEPT_MAX + 2, True)


# -- names ---------------------------------------------------------------------------------------


class Client:
    peer = ""


def outgoing(
    *targets: Target,
    method: bytes = b"GET",
    host: bytes = b"asked.example:8000",
    target: bytes = b"/x?y",
    headers: Headers | None = None,
    **route: Any,
) -> Outgoing:
    return Outgoing(
        Route("*", targets or (FIRST,), **route),
        method,
        target,
        host,
        b"http",
        headers or [],
        Sender(Client(), False, False),
        HeaderTransform(HeaderRules(grip=False)),
    )


@pytest.mark.parametrize(
    ("as_host", "host_header", "ssl", "authority"),
    [
        (None, None, False, b"asked.example:8000"),
        ("route.example", None, False, b"route.example"),
        (None, "target.example:90", False, b"target.example:90"),
        ("route.example", "target.example", False, b"target.example"),
        ("route.example:80", None, False, b"route.example"),
        ("route.example:80", None, True, b"route.example:80"),
        ("route.example:443", None, True, b"route.example"),
        ("route.example:443", None, False, b"route.example:443"),
        ("route.example:8080", None, False, b"route.example:8080"),
        ("[::1]:80", None, False, b"[::1]"),
        ("[::1]", None, False, b"[::1]"),
    ],
)
def test_the_host_is_the_target_s_then_the_route_s_then_the_client_s(
    as_host: str | None, host_header: str | None, ssl: bool, authority: bytes
) -> None:
    target = Target("backend.example", 81, ssl=ssl, host_header=host_header)
    assert outgoing(target, as_host=as_host).authority(target) == authority


@pytest.mark.parametrize(
    ("options", "host", "name"),
    [
        ({"ssl": False}, b"a.example", None),
        ({"ssl": True}, b"a.example", "a.example"),
        ({"ssl": True}, b"a.example:8443", "a.example"),
        ({"ssl": True}, b"[2001:db8::1]:8443", "2001:db8::1"),
        ({"ssl": True}, b"[2001:db8::1]", "2001:db8::1"),
        ({"ssl": True}, b"", "backend.example"),
        ({"ssl": True}, b":80", "backend.example"),
        ({"ssl": True, "host_header": "t.example:1"}, b"a.example", "t.example"),
        ({"ssl": True, "trust_connect_host": True}, b"a.example", "backend.example"),
        (
            {"ssl": True, "trust_connect_host": True, "host_header": "t.example"},
            b"a.example",
            "backend.example",
        ),
        ({"ssl": False, "trust_connect_host": True}, b"a.example", None),
    ],
)
def test_a_certificate_must_carry_the_host_s_name_or_the_target_s(
    options: dict[str, Any], host: bytes, name: str | None
) -> None:
    target = Target("backend.example", 81, **options)
    assert outgoing(target, host=host).tls_name(target) == name


# -- on the way ----------------------------------------------------------------------------------


class Transport:
    def __init__(self) -> None:
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Connection:
    """A connection that keeps what is sent on it."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.method = b""
        self.sent = b""
        self.complete = False
        self.abandoned = False

    def send(self, receiver: object, method: bytes, data: bytes, *, complete: bool) -> None:
        assert self.sent == b""
        self.method = method
        self.sent = data
        self.complete = complete

    def send_content(self, data: bytes, *, complete: bool) -> None:
        assert self.sent.count(b"\r\n\r\n") > 0, "the head comes first"
        self.sent += data
        self.complete = complete

    def abandon(self) -> None:
        self.abandoned = True

    @property
    def real(self) -> BackendConnection:
        return cast(BackendConnection, self)

    @property
    def body(self) -> bytes:
        return self.sent.partition(b"\r\n\r\n")[2]


class FakePool:
    """Says for each target what becomes of a request for a connection."""

    def __init__(self) -> None:
        self.free: dict[str, Connection] = {}
        self.full: set[str] = set()
        self.asked: list[tuple[str, bool]] = []  # host, fresh
        self.waiting: list[Waiter] = []

    def acquire(
        self, target: Target, tls_name: str | None, waiter: Waiter, *, fresh: bool
    ) -> Connection | None:
        self.asked.append((target.host, fresh))
        if target.host in self.full:
            raise ConnectError("too many wait")
        if target.host in self.free and not fresh:
            return self.free.pop(target.host)
        self.waiting.append(waiter)
        return None

    def cancel(self, waiter: Waiter) -> None:
        self.waiting.remove(waiter)


class Asker:
    def __init__(self) -> None:
        self.heads: list[ResponseHead] = []
        self.content = b""
        self.finished = False
        self.error: BackendError | None = None
        self.blocked = False

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        self.heads.append(head)
        self.on_content(content, finished)

    def on_content(self, content: bytes, finished: bool) -> None:
        assert not self.finished
        assert self.error is None
        self.content += content
        self.finished = finished

    def on_failed(self, error: BackendError) -> None:
        assert not self.finished
        assert self.error is None
        self.error = error

    def on_upload_blocked(self) -> None:
        self.blocked = True

    def on_upload_ready(self) -> None:
        self.blocked = False


class Stage:
    """One request; `connect` makes a connection for it, `fail` does not."""

    def __init__(
        self,
        *targets: Target,
        body: RequestBody | None = None,
        free: tuple[str, ...] = (),
        full: tuple[str, ...] = (),
        last_ids: dict[str, str] | None = None,
        **asked: Any,
    ) -> None:
        self.pool = FakePool()
        self.pool.free = {host: Connection() for host in free}
        self.pool.full = set(full)
        self.free = dict(self.pool.free)
        self.asker = Asker()
        self.body = RequestBody(0) if body is None else body
        self.request = BackendRequest(
            cast(Pool, self.pool),
            self.asker,
            outgoing(*targets, **asked),
            self.body,
            last_ids or {},
        )
        self.request.start()

    def connect(self) -> Connection:
        connection = Connection()
        self.pool.waiting.pop().on_connected(connection.real)
        return connection

    def fail(self, error: BackendError | None = None) -> None:
        self.pool.waiting.pop().on_unconnected(error or ConnectError("refused"))

    def add(self, content: bytes, finished: bool = False) -> None:
        """More of the request's body comes."""
        self.body.add(content, finished)
        self.request.forward(content)

    @property
    def asked(self) -> list[str]:
        return [host for host, _ in self.pool.asked]


def test_a_request_is_sent_with_what_the_route_makes_of_it() -> None:
    stage = Stage(
        FIRST,
        free=("first",),
        method=b"FOO",
        target=b"/old/x?y",
        headers=[(b"X-A", b"1"), (b"Connection", b"close")],
        path_beg=b"/old",
        path_rem=4,
        as_host="b.example",
    )
    connection = stage.free["first"]
    assert connection.sent == (
        b"FOO /x?y HTTP/1.1\r\nHost: b.example\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n"
    )
    assert (connection.method, connection.complete) == (b"FOO", True)


def test_a_response_is_passed_on() -> None:
    stage = Stage(FIRST, free=("first",))
    stage.request.on_response(OK, b"he", False)
    stage.request.on_content(b"l", False)
    stage.request.on_content(b"lo", True)
    assert stage.asker.heads == [OK]
    assert (stage.asker.content, stage.asker.finished) == (b"hello", True)


def test_the_test_handler_needs_no_connection() -> None:
    stage = Stage(Target(test=True), target=b"/t/", path_beg=b"/t")
    assert stage.asker.heads[0].code == 200
    assert stage.asker.content == b"Hello from the Pushpin test handler!\n"
    assert stage.asker.finished
    assert stage.asked == []


# -- which target --------------------------------------------------------------------------------


def test_targets_are_tried_in_order() -> None:
    stage = Stage(FIRST, SECOND)
    assert stage.request.target is FIRST
    stage.fail()
    assert stage.request.target is SECOND
    stage.connect()
    assert stage.asked == ["first", "second"]
    assert stage.asker.error is None


def test_a_target_with_too_many_waiting_is_passed_over() -> None:
    stage = Stage(FIRST, SECOND, full=("first",), free=("second",))
    assert stage.request.target is SECOND
    assert stage.free["second"].complete


def test_where_no_target_is_reached_all_of_them_are_named() -> None:
    stage = Stage(FIRST, SECOND)
    stage.fail()
    stage.fail()
    assert type(stage.asker.error) is ConnectError
    assert str(stage.asker.error) == (
        "Unable to connect to any targets. Tried: first:81, second:82"
    )
    assert stage.request.target is SECOND


def test_a_forbidden_target_is_the_end() -> None:
    stage = Stage(FIRST, SECOND)
    stage.fail(BlockedError("blocked"))
    assert type(stage.asker.error) is BlockedError
    assert stage.asked == ["first"]


def test_an_unreachable_target_may_be_followed_by_the_test_handler() -> None:
    stage = Stage(FIRST, Target(test=True), target=b"/")
    stage.fail()
    assert stage.asker.finished


# -- sending it again ----------------------------------------------------------------------------

DEAD = ResponseError("connection closed by the backend")
LATE = ResponseTimeout("no response in time")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
def test_a_request_on_a_dead_connection_is_repeated_where_that_is_safe(method: bytes) -> None:
    stage = Stage(FIRST, SECOND, free=("first",), method=method)
    stage.request.on_failed(DEAD, True)
    assert stage.pool.asked == [("first", False), ("first", True)]
    assert stage.connect().sent == stage.free["first"].sent
    assert stage.asker.error is None


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"FOO", b"get"])
@pytest.mark.parametrize("error", [DEAD, LATE])
def test_other_requests_are_not(method: bytes, error: BackendError) -> None:
    stage = Stage(FIRST, SECOND, free=("first",), method=method)
    stage.request.on_failed(error, True)
    assert stage.asker.error is error
    assert stage.asked == ["first"]


def test_a_request_is_repeated_once() -> None:
    stage = Stage(FIRST, free=("first",))
    stage.request.on_failed(DEAD, True)
    stage.connect()
    stage.request.on_failed(DEAD, True)
    assert stage.asker.error is DEAD


def test_a_request_that_the_backend_saw_is_not_repeated() -> None:
    stage = Stage(FIRST, SECOND, free=("first",))
    stage.request.on_failed(DEAD, False)
    assert stage.asker.error is DEAD
    assert stage.asked == ["first"]


def test_after_the_response_has_begun_nothing_is_repeated() -> None:
    stage = Stage(FIRST, SECOND, free=("first",))
    stage.request.on_response(OK, b"he", False)
    stage.request.on_failed(DEAD, True)
    assert stage.asker.error is DEAD
    assert stage.asked == ["first"]


def test_a_target_that_does_not_answer_in_time_is_left_for_the_next() -> None:
    stage = Stage(FIRST, SECOND, free=("first", "second"))
    stage.request.on_failed(LATE, False)
    assert stage.request.target is SECOND
    assert stage.free["second"].complete


def test_the_last_target_that_does_not_answer_in_time_is_the_end() -> None:
    stage = Stage(FIRST, SECOND, free=("first", "second"))
    stage.request.on_failed(LATE, False)
    stage.request.on_failed(LATE, False)
    assert stage.asker.error is LATE


@pytest.mark.parametrize(("size", "repeated"), [(KEPT_MAX, True), (KEPT_MAX + 1, False)])
def test_a_body_is_repeated_while_it_is_kept(size: int, repeated: bool) -> None:
    body = RequestBody(size)
    body.add(bytes(size), True)
    stage = Stage(FIRST, free=("first",), method=b"PUT", body=body)
    assert stage.free["first"].body == bytes(size)
    stage.request.on_failed(DEAD, True)
    if repeated:
        assert stage.connect().body == bytes(size)
    else:
        assert stage.asker.error is DEAD


# -- the request's body --------------------------------------------------------------------------


def test_a_body_that_is_complete_goes_with_its_length_however_it_came() -> None:
    body = RequestBody(CHUNKED)
    body.add(b"hello", True)
    stage = Stage(FIRST, free=("first",), method=b"POST", body=body)
    assert b"\r\nContent-Length: 5\r\n" in stage.free["first"].sent
    assert stage.free["first"].body == b"hello"
    assert stage.free["first"].complete


def test_the_rest_of_a_body_of_known_length_follows_as_it_comes() -> None:
    body = RequestBody(5)
    body.add(b"he", False)
    stage = Stage(FIRST, free=("first",), method=b"POST", body=body)
    connection = stage.free["first"]
    assert b"\r\nContent-Length: 5\r\n" in connection.sent
    assert not connection.complete
    stage.add(b"l")
    stage.add(b"lo", finished=True)
    assert connection.body == b"hello"
    assert connection.complete


def test_the_rest_of_a_chunked_body_follows_in_chunks() -> None:
    body = RequestBody(CHUNKED)
    body.add(b"he", False)
    stage = Stage(FIRST, free=("first",), method=b"POST", body=body)
    connection = stage.free["first"]
    assert b"\r\nTransfer-Encoding: chunked\r\n" in connection.sent
    stage.add(b"l")
    stage.add(b"")
    stage.add(b"lo", finished=True)
    assert connection.body == b"2\r\nhe\r\n1\r\nl\r\n2\r\nlo\r\n0\r\n\r\n"
    assert connection.complete


def test_a_chunked_body_may_end_without_a_byte() -> None:
    stage = Stage(FIRST, free=("first",), method=b"POST", body=RequestBody(CHUNKED))
    stage.add(b"", finished=True)
    assert stage.free["first"].body == b"0\r\n\r\n"


@pytest.mark.parametrize("length", [5, CHUNKED])
def test_what_comes_before_the_connection_is_sent_with_the_head(length: int) -> None:
    stage = Stage(FIRST, method=b"POST", body=RequestBody(length))
    stage.add(b"he")
    stage.add(b"l")
    connection = stage.connect()
    stage.add(b"lo", finished=True)
    assert connection.body.replace(b"\r\n", b" ") in (b"hello", b"3 hel 2 lo 0  ")


def test_a_body_stops_coming_until_there_is_a_connection() -> None:
    stage = Stage(FIRST, SECOND, method=b"POST", body=RequestBody(5))
    assert stage.asker.blocked
    stage.fail()
    assert stage.asker.blocked
    stage.connect()
    assert not stage.asker.blocked


def test_a_body_stops_coming_while_the_backend_takes_no_more() -> None:
    stage = Stage(FIRST, free=("first",), method=b"POST", body=RequestBody(5))
    assert not stage.asker.blocked
    stage.request.on_upload_blocked()
    assert stage.asker.blocked
    stage.request.on_upload_ready()
    assert not stage.asker.blocked


def test_the_next_target_takes_the_rest_of_a_body_that_the_last_one_did_not() -> None:
    body = RequestBody(5)
    body.add(b"he", False)
    stage = Stage(FIRST, SECOND, free=("first", "second"), method=b"PUT", body=body)
    stage.request.on_upload_blocked()
    stage.request.on_failed(LATE, False)
    assert stage.free["second"].body == b"he"
    assert not stage.asker.blocked


# -- pace and the end ----------------------------------------------------------------------------


def test_a_response_may_be_slowed_down() -> None:
    stage = Stage(FIRST, free=("first",))
    transport = stage.free["first"].transport
    stage.request.pause()
    assert not transport.reading
    stage.request.resume()
    assert transport.reading


def test_after_its_end_the_connection_is_somebody_else_s() -> None:
    for respond in ("whole", "parts"):
        stage = Stage(FIRST, free=("first",), method=b"POST", body=RequestBody(5))
        connection = stage.free["first"]
        before = connection.sent
        if respond == "parts":
            stage.request.on_response(OK, b"", False)
            stage.request.on_content(b"hello", True)
        else:
            stage.request.on_response(OK, b"hello", True)
        stage.request.pause()
        stage.add(b"x")
        stage.request.abandon()
        stage.request.resume()
        assert connection.transport.reading
        assert connection.sent == before
        assert not connection.abandoned


def test_a_request_that_is_abandoned_closes_its_connection() -> None:
    stage = Stage(FIRST, free=("first",))
    stage.request.abandon()
    assert stage.free["first"].abandoned


def test_a_request_that_is_abandoned_waits_for_no_connection() -> None:
    stage = Stage(FIRST)
    stage.request.abandon()
    assert stage.pool.waiting == []
    stage.request.abandon()
    assert stage.asker.error is None
