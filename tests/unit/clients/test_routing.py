"""Which route a request takes, and what becomes of the request on its way there."""

import time
from typing import Any, cast

import pytest

from gripproxy.backend.request import Outgoing
from gripproxy.clients.connection import ClientConnection
from gripproxy.clients.routing import URI_MAX, Routing, route_request, split_authority
from gripproxy.errors import HttpError
from gripproxy.grip import signature
from gripproxy.http1.head import RequestHead, parse_request
from gripproxy.routes import Route, RouteTable, Target
from tests.unit.clients.websockets import Client, Surroundings

TARGET = Target("backend.example", 8000)
WEBSOCKET = b"Upgrade: websocket\r\n"


def request(
    fields: bytes = b"", *, target: bytes = b"/", host: bytes | None = b"a.example"
) -> RequestHead:
    line = b"" if host is None else b"Host: %b\r\n" % host
    return parse_request(b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target, line, fields), 100)


# -- by id ---------------------------------------------------------------------------------------

FIRST = Route("*", (TARGET,), id="first")
SECOND = Route("", (TARGET,), id="second")
TWIN, OTHER_TWIN = Route("t.example", (TARGET,), id="twin"), Route("", (TARGET,), id="twin")
ROUTING = Routing(RouteTable([FIRST, SECOND, TWIN, OTHER_TWIN]), {})


@pytest.mark.parametrize(
    ("fields", "by_id", "found"),
    [
        (b"", True, FIRST),
        (b"Pushpin-Route: second\r\n", True, SECOND),
        (b"Pushpin-Route: second\r\n", False, FIRST),
        (b"Pushpin-Route: nope\r\n", True, None),
        (b"Pushpin-Route: \xff\r\n", True, None),
        (b"Pushpin-Route: twin\r\n", True, None),
        (b"Pushpin-Route: second\r\n" + WEBSOCKET, True, SECOND),
        (b"Pushpin-Route: nope\r\n" + WEBSOCKET, True, None),
        # Of an id that several routes have, WebSockets make nothing.
        (b"Pushpin-Route: twin\r\n" + WEBSOCKET, True, FIRST),
    ],
)
def test_a_request_may_ask_for_a_route(fields: bytes, by_id: bool, found: Route | None) -> None:
    assert ROUTING.find(request(fields), "a.example", secure=False, by_id=by_id) is found


# -- on its way ----------------------------------------------------------------------------------


class Connection(Client):
    """A client's connection, by TLS or not."""

    def __init__(self, secure: bool) -> None:
        self.secure = secure


def routed(
    head: RequestHead, *, secure: bool = False, route: Route | None = None, **options: Any
) -> Outgoing:
    surroundings = Surroundings(route or Route("*", (TARGET,)), **options)
    return route_request(surroundings.front, cast(ClientConnection, Connection(secure)), head)


def test_what_is_asked_is_what_the_client_asked() -> None:
    head = request(b"X-A: 1\r\n", target=b"/a?b", host=b"A.example:8080")
    outgoing = routed(head)
    assert (outgoing.method, outgoing.target, outgoing.host) == (b"GET", b"/a?b", b"a.example:8080")
    assert outgoing.headers == head.headers
    assert outgoing.url == "http://a.example:8080/a?b"


@pytest.mark.parametrize(
    ("fields", "secure", "heeded", "scheme"),
    [
        (b"", False, False, b"http"),
        (b"", True, False, b"https"),
        (WEBSOCKET, False, False, b"ws"),
        (WEBSOCKET, True, False, b"wss"),
        (b"X-Forwarded-Proto: https\r\n", False, False, b"http"),
        (b"X-Forwarded-Proto: https\r\n", False, True, b"https"),
        (b"X-Forwarded-Proto: http\r\n", False, True, b"http"),
        (WEBSOCKET + b"X-Forwarded-Protocol: wss\r\n", False, True, b"wss"),
        (WEBSOCKET + b"X-Forwarded-Proto: ws\r\n", True, True, b"wss"),
    ],
)
def test_the_scheme_is_that_of_the_client(
    fields: bytes, secure: bool, heeded: bool, scheme: bytes
) -> None:
    outgoing = routed(request(fields), secure=secure, accept_forwarded_proto=heeded)
    assert outgoing.scheme == scheme
    assert outgoing.sender.secure is (scheme in (b"https", b"wss"))


def test_a_route_may_be_for_one_protocol() -> None:
    only = Route("*", (TARGET,), proto="ws")
    assert routed(request(WEBSOCKET), route=only).route is only
    with pytest.raises(HttpError, match="Route not found") as caught:
        routed(request(), route=only)
    assert caught.value.status == 502


@pytest.mark.parametrize(("fields", "prefix"), [(b"", b"http://"), (WEBSOCKET, b"ws://")])
def test_an_address_is_bounded(fields: bytes, prefix: bytes) -> None:
    target = b"/".ljust(URI_MAX - len(prefix + b"a.example"), b"x")
    assert routed(request(fields, target=target)).target == target
    with pytest.raises(HttpError, match="Request URI size exceeded limit of 4096 bytes") as caught:
        routed(request(fields, target=target + b"x"))
    assert caught.value.status == 414


def test_a_request_that_another_proxy_signed_is_trusted() -> None:
    key, another = signature.Key("HS256", b"secret"), signature.Key("HS256", b"another")
    head = request(b"Grip-Sig: %b\r\n" % signature.sign(key, "other", time.time()))
    assert routed(head, upstream_key=key).sender.trusted
    assert not routed(head).sender.trusted
    assert not routed(request(), upstream_key=key).sender.trusted
    assert not routed(head, upstream_key=another).sender.trusted


@pytest.mark.parametrize(
    ("given", "secure", "name", "authority"),
    [
        (b"A.example", False, "a.example", b"a.example"),
        (b"a.example:8080", False, "a.example", b"a.example:8080"),
        (b"a.example:80", False, "a.example", b"a.example"),
        (b"a.example:80", True, "a.example", b"a.example:80"),
        (b"a.example:443", True, "a.example", b"a.example"),
        (b"a.example:", False, "a.example", b"a.example"),
        (b"[::1]", False, "::1", b"[::1]"),
        (b"[::1]:8080", False, "::1", b"[::1]:8080"),
        (b"", False, "localhost", b"localhost"),
    ],
)
def test_an_authority_has_a_name_for_routing(
    given: bytes, secure: bool, name: str, authority: bytes
) -> None:
    assert split_authority(given, secure) == (name, authority)
