"""A request of the proxy's own: its whole response, or one failure."""

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.backend.fetch import Fetch
from gripproxy.backend.pool import Pool
from gripproxy.errors import BackendError, BlockedError, ConnectError, ResponseError
from gripproxy.http1.head import ResponseHead
from gripproxy.routes import Target
from tests.unit.backends import ScriptedPool

TARGET = Target("127.0.0.1", 1)
REQUEST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"


class Fetcher:
    """Wants `wanted` bytes of a body, and checks that it hears of one end."""

    def __init__(self, wanted: int = 100) -> None:
        self.wanted = wanted
        self.head: ResponseHead | None = None
        self.fetched: tuple[int, bytes, bool] | None = None
        self.error: BackendError | None = None
        self.sent: bool | None = None

    @property
    def ended(self) -> bool:
        return self.fetched is not None or self.error is not None

    def on_head(self, head: ResponseHead) -> int:
        assert self.head is None
        assert not self.ended
        self.head = head
        return self.wanted

    def on_fetched(self, head: ResponseHead, body: bytes, complete: bool) -> None:
        assert head is self.head
        assert not self.ended
        self.fetched = (head.code, body, complete)

    def on_unfetched(self, error: BackendError, sent: bool) -> None:
        assert not self.ended
        self.error = error
        self.sent = sent


class Stage:
    def __init__(self) -> None:
        self.pool = ScriptedPool()

    def fetch(self, wanted: int = 100, *, tls_name: str | None = None) -> tuple[Fetcher, Fetch]:
        fetcher = Fetcher(wanted)
        fetch = Fetch(cast(Pool, self.pool), fetcher, TARGET, tls_name, REQUEST)
        fetch.start()
        return fetcher, fetch

    def use(self) -> None:
        """There is a connection now that was used once, and is idle."""
        self.fetch()
        self.pool.request.answer()
        assert len(self.pool.idle) == 1


@pytest.fixture
def stage() -> Stage:
    return Stage()


# -- a response ----------------------------------------------------------------------------------


def test_the_whole_response_is_fetched(stage: Stage) -> None:
    fetcher, _ = stage.fetch(tls_name="a.example")
    assert [request.data for request in stage.pool.requests] == [REQUEST]
    assert stage.pool.names == ["a.example"]
    stage.pool.request.answer(b"hello", [(b"X-A", b"1")], 404)
    assert fetcher.fetched == (404, b"hello", True)
    assert fetcher.head is not None
    assert fetcher.head.headers[0] == (b"X-A", b"1")


def test_its_connection_is_used_again(stage: Stage) -> None:
    stage.use()
    stage.fetch()
    first, second = stage.pool.requests
    assert first.wire is second.wire


def test_who_finds_no_connection_waits_for_one(stage: Stage) -> None:
    stage.pool.slow = True
    fetcher, fetch = stage.fetch()
    assert stage.pool.requests == []
    assert fetch.waits
    stage.pool.connect()
    assert not fetch.waits
    stage.pool.request.answer(b"hello")
    assert fetcher.fetched == (200, b"hello", True)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_response_may_come_in_pieces(stage: Stage, size: int) -> None:
    fetcher, _ = stage.fetch()
    for start in range(0, len(CHUNKED), size):
        stage.pool.request.receive(CHUNKED[start : start + size])
    assert fetcher.fetched == (200, b"hello", True)


def test_a_body_may_end_with_its_connection(stage: Stage) -> None:
    fetcher, _ = stage.fetch()
    stage.pool.request.receive(UNTIL_CLOSE)
    assert not fetcher.ended
    stage.pool.request.lose()
    assert fetcher.fetched == (200, b"hello", True)


@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n", b""])
@pytest.mark.parametrize("pieces", [[b"hello"], [b"he", b"llo"], [b"h", b"e", b"l", b"l", b"o"]])
@pytest.mark.parametrize("wanted", [0, 2, 4])
def test_what_is_not_wanted_is_cut_off(
    stage: Stage, length: bytes, pieces: list[bytes], wanted: int
) -> None:
    fetcher, _ = stage.fetch(wanted)
    request = stage.pool.request
    request.receive(b"HTTP/1.1 200 OK\r\n%b\r\n" % length)
    for piece in pieces:
        request.receive(piece)
    assert fetcher.fetched == (200, b"hello"[:wanted], False)


def test_a_response_of_which_more_is_coming_is_not_waited_for(stage: Stage) -> None:
    fetcher, _ = stage.fetch(2)
    stage.pool.request.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")
    assert fetcher.fetched == (200, b"he", False)
    assert stage.pool.request.wire.aborted


def test_a_body_of_just_what_is_wanted_is_complete(stage: Stage) -> None:
    fetcher, _ = stage.fetch(5)
    stage.pool.request.receive(CHUNKED[:-5])
    stage.pool.request.receive(CHUNKED[-5:])
    assert fetcher.fetched == (200, b"hello", True)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, len(CHUNKED)), max_size=8), st.integers(0, 6))
def test_however_a_response_is_cut_the_same_is_fetched(cuts: list[int], wanted: int) -> None:
    stage = Stage()
    fetcher, _ = stage.fetch(wanted)
    ends = [*sorted(cuts), len(CHUNKED)]
    for start, end in zip([0, *ends], ends, strict=False):
        if start < end:
            stage.pool.request.receive(CHUNKED[start:end])
    assert fetcher.fetched == (200, b"hello"[:wanted], wanted >= 5)


# -- none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ConnectError("x"), BlockedError("x")])
def test_without_a_connection_nothing_was_sent(stage: Stage, error: BackendError) -> None:
    stage.pool.slow = True
    fetcher, _ = stage.fetch()
    stage.pool.refuse(error)
    assert (fetcher.error, fetcher.sent) == (error, False)


def test_a_pool_that_is_full_fails_at_once(stage: Stage) -> None:
    stage.pool.full = True
    fetcher, _ = stage.fetch()
    assert isinstance(fetcher.error, ConnectError)
    assert fetcher.sent is False


@pytest.mark.parametrize("error", [None, OSError("reset")])
def test_a_connection_that_is_lost_may_have_taken_the_request(
    stage: Stage, error: Exception | None
) -> None:
    fetcher, _ = stage.fetch()
    stage.pool.request.lose(error)
    assert isinstance(fetcher.error, ResponseError)
    assert fetcher.sent is True


def test_one_that_has_not_taken_all_of_it_has_not(stage: Stage) -> None:
    fetcher, _ = stage.fetch()
    stage.pool.request.lose(sent=False)
    assert isinstance(fetcher.error, ResponseError)
    assert fetcher.sent is False


def test_one_that_took_the_rest_later_may_have(stage: Stage) -> None:
    fetcher, _ = stage.fetch()
    connection = stage.pool.request.wire.connection
    connection.pause_writing()
    connection.resume_writing()
    stage.pool.request.lose()
    assert fetcher.sent is True


def test_a_response_that_is_cut_short_is_none(stage: Stage) -> None:
    fetcher, _ = stage.fetch()
    stage.pool.request.receive(CHUNKED[:-5])
    stage.pool.request.lose()
    assert isinstance(fetcher.error, ResponseError)
    assert (fetcher.sent, fetcher.fetched) == (True, None)


def test_what_is_not_a_response_is_none(stage: Stage) -> None:
    fetcher, _ = stage.fetch()
    stage.pool.request.receive(b"hello\r\n\r\n")
    assert isinstance(fetcher.error, ResponseError)
    assert fetcher.sent is True


# -- again ---------------------------------------------------------------------------------------


def test_over_a_dead_connection_it_is_sent_once_more(stage: Stage) -> None:
    stage.use()
    fetcher, _ = stage.fetch()
    _, dead = stage.pool.requests
    dead.lose()
    *_, fresh = stage.pool.requests
    assert fresh is not dead
    assert fresh.wire is not dead.wire
    assert fresh.data == REQUEST
    assert not fetcher.ended
    fresh.answer(b"hello")
    assert fetcher.fetched == (200, b"hello", True)


def test_it_is_not_sent_a_third_time(stage: Stage) -> None:
    stage.use()
    fetcher, _ = stage.fetch()
    stage.pool.request.lose()
    stage.pool.request.lose()
    assert isinstance(fetcher.error, ResponseError)
    assert (fetcher.sent, len(stage.pool.requests)) == (True, 3)


def test_a_new_connection_may_be_out_of_reach_then(stage: Stage) -> None:
    stage.use()
    fetcher, _ = stage.fetch()
    stage.pool.slow = True
    stage.pool.request.lose()
    stage.pool.refuse()
    assert isinstance(fetcher.error, ConnectError)
    assert fetcher.sent is False


def test_what_the_new_connection_took_was_sent_whatever_the_dead_one_took(stage: Stage) -> None:
    stage.use()
    fetcher, _ = stage.fetch()
    stage.pool.request.lose(sent=False)
    stage.pool.request.lose()
    assert fetcher.sent is True


def test_a_connection_that_answered_anything_was_not_dead(stage: Stage) -> None:
    stage.use()
    fetcher, _ = stage.fetch()
    stage.pool.request.receive(b"H")
    stage.pool.request.lose()
    assert isinstance(fetcher.error, ResponseError)
    assert len(stage.pool.requests) == 2


# -- not wanted any more -------------------------------------------------------------------------


def test_who_waits_can_give_up(stage: Stage) -> None:
    stage.pool.slow = True
    fetcher, fetch = stage.fetch()
    fetch.abandon()
    assert stage.pool.waiting == []
    assert not fetcher.ended


def test_a_response_that_is_not_wanted_any_more_is_not_heard_of(stage: Stage) -> None:
    fetcher, fetch = stage.fetch()
    fetch.abandon()
    assert stage.pool.request.wire.aborted
    stage.pool.request.lose()
    assert not fetcher.ended


def test_after_the_end_there_is_nothing_to_abandon(stage: Stage) -> None:
    stage.use()
    fetcher, fetch = stage.fetch()
    stage.pool.request.answer()
    fetch.abandon()
    assert fetcher.fetched == (200, b"", True)
    assert not stage.pool.request.wire.aborted
