"""WebSocket-over-HTTP: what a backend gets, the headers of every request and the events."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OPEN, OVER_HTTP, over_http, text
from tests.support.backend import Request, response
from tests.support.certs import Authority, client_context
from tests.support.client import Fields, fetch
from tests.support.websocket import (
    BINARY,
    CLOSE,
    EVENTS_TYPE,
    PING,
    PONG,
    TEXT,
    WohBackend,
    open_socket,
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
]
shared = pytest.mark.shared
CA = Authority("test authority")
UPSTREAM = "the key that the proxy in front of us signs with"
ALWAYS = {
    "host", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions",
    "grip-sig", "grip-feature", "x-forwarded-for",
    "accept", "connection-id", "content-type", "content-length",
}  # fmt: skip
FEATURES = (
    "status, session, link:next, link:gone, "
    "filter:skip-self, filter:skip-users, filter:require-sub, filter:build-id, "
    "filter:var-subst, filter:http-check, filter:http-modify"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    settings = {
        "sig_key": "changeme",
        "upstream_key": UPSTREAM,
        "set_x_forwarded_protocol": "true",
        "x_forwarded_for": "truncate:0,append",
        "x_forwarded_for_trusted": "append",
        "accept_pushpin_route": True,
        "cdn_loop": "ours",
    }
    async with open_stage(
        "*",
        OVER_HTTP,
        "*,path_beg=/plain,no_grip -> over_http",
        "*,path_beg=/rule,id=rule,orig_headers,header=X-New:1,header=X-Gone: -> over_http",
        "*,path_beg=/signed,sig_iss=me,sig_key=other -> over_http",
        proxy=settings,
        https=1,
        certs={"default_{https_port}": CA.issue("localhost")},
    ) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


async def life(
    stage: Stage,
    headers: Fields = (),
    *,
    base: str = "/woh",
    query: str = "",
    port: int | None = None,
    **options: Any,
) -> list[Request]:
    """The requests of one connection: its OPEN, a text message, and its DISCONNECT."""
    backend = WohBackend(stage.backend, base + "/" + fresh("s"))
    target = backend.path + query
    async with open_socket(port or stage.proxy.port, target, headers, **options) as client:
        opening, got = await backend.next()
        assert got == OPEN
        await client.send_text("hello")
        message, got = await backend.next()
        assert got == [text("hello")]
    last, got = await backend.next()
    assert got == DISCONNECT
    return [opening, message, last]


def names(request: Request) -> list[str]:
    """The names of the fields, without those in which Pushpin 1.36 differs."""
    other = {"accept-encoding", "cdn-loop"}
    return [name.lower() for name in request.names if name.lower() not in other]


# -- when ------------------------------------------------------------------------------------


@shared
async def test_plain_requests_to_such_a_target_are_proxied(stage: Stage) -> None:
    stage.backend.on("/woh/page", lambda ex: response(200, body=ex.request.body))
    r = await fetch(stage.proxy.port, "POST", "/woh/page", {"Content-Type": "text/x"}, b"page")
    assert (r.status, r.body) == (200, b"page")


@shared
@pytest.mark.parametrize("kind", [EVENTS_TYPE, EVENTS_TYPE + "; charset=utf-8"])
async def test_a_client_cannot_post_events_itself(stage: Stage, kind: str) -> None:
    r = await fetch(stage.proxy.port, "POST", "/woh/forged", {"Content-Type": kind}, b"OPEN\r\n")
    assert r.status == 403
    assert r.text == "Client not allowed to send WebSocket events directly.\n"
    assert "/woh/forged" not in [request.target for request in stage.backend.requests]


# -- headers ---------------------------------------------------------------------------------


@shared
async def test_every_request_is_a_post_of_events(stage: Stage) -> None:
    for request in await life(stage, query="?a=1&b=%20"):
        assert request.target.endswith("?a=1&b=%20")
        assert (request.method, request.version) == ("POST", "HTTP/1.1")
        assert request.header("accept") == EVENTS_TYPE
        assert request.header("content-type") == EVENTS_TYPE
        assert request.header("content-length") == str(len(request.body))
        assert request.header("sec-websocket-extensions") == "grip"
        assert request.header("host") == "localhost"


@shared
async def test_nothing_else_is_added(stage: Stage) -> None:
    for request in await life(stage):
        assert sorted(names(request)) == sorted(ALWAYS)


async def test_no_coding_is_offered(stage: Stage) -> None:
    """Pushpin 1.36 offers those that its HTTP client knows."""
    for request in await life(stage, {"Accept-Encoding": "gzip"}):
        assert request.header("accept-encoding") is None


@shared
async def test_the_handshake_is_repeated_with_every_request(stage: Stage) -> None:
    sent = [
        ("Cookie", "a=1; b=2"),
        ("Origin", "https://page.example"),
        ("User-Agent", "test/1"),
        ("Authorization", "Basic eDp5"),
        ("Sec-WebSocket-Protocol", "chat, more"),
        ("X-Twice", "1"),
        ("X-Twice", "2"),
    ]
    for request in await life(stage, sent, key="some key"):
        assert [field for field in request.headers if field in sent] == sent
        assert request.header("sec-websocket-key") == "some key"
        assert request.header("sec-websocket-version") == "13"


@shared
async def test_what_concerns_one_hop_is_dropped(stage: Stage) -> None:
    sent = {
        "Keep-Alive": "timeout=5",
        "Content-Encoding": "identity",
        "Connection-Id": "forged",
        "Accept": "text/html",
        "Meta-User": "forged",
        "meta-other": "forged",
        "Grip-Sig": "forged",
        "Grip-Last": "forged",
        "X-Forwarded-Proto": "forged",
        "eb9bf0f5-X": "forged",
        "Sec-WebSocket-Extensions": "permessage-deflate",
    }
    for request in await life(stage, sent):
        assert sorted(names(request)) == sorted(ALWAYS)
        assert "forged" not in [value for _, value in request.headers]
        assert request.header("accept") == EVENTS_TYPE
        assert request.header("sec-websocket-extensions") == "grip"


async def test_the_clients_content_type_is_dropped(stage: Stage) -> None:
    """Pushpin 1.36 sends it beside its own."""
    for request in await life(stage, {"Content-Type": "text/plain"}):
        assert request.all("content-type") == [EVENTS_TYPE]


@shared
async def test_a_rule_changes_every_request(stage: Stage) -> None:
    for request in await life(stage, {"X-Gone": "1", "X-New": "0"}, base="/rule"):
        assert (request.header("x-gone"), request.header("x-new")) == (None, "1")


async def test_originals_are_copied_for_every_request(stage: Stage) -> None:
    """Pushpin 1.36 copies them twice."""
    for request in await life(stage, {"X-Own": "1"}, base="/rule"):
        assert request.header("eb9bf0f5-X-Own") == request.header("x-own") == "1"
        assert request.header("eb9bf0f5-X-New") == "1"


@shared
async def test_the_name_of_the_rule_is_dropped(stage: Stage) -> None:
    for request in await life(stage, {"Pushpin-Route": "rule"}, base="/rule"):
        assert request.header("x-new") == "1"
        assert request.header("pushpin-route") is None


# -- signing ---------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("base", "key", "issuer"),
    [("/woh", "changeme", "pushpin"), ("/signed", "other", "me")],
)
async def test_every_request_is_signed(stage: Stage, base: str, key: str, issuer: str) -> None:
    for request in await life(stage, base=base):
        claims = jwt.decode(request.header("grip-sig") or "", key, algorithms=["HS256"])
        assert claims.keys() == {"iss", "exp"}
        assert claims["iss"] == issuer
        assert abs(claims["exp"] - time.time() - 3600) < 10


async def test_features_are_those_of_pushpin_2(stage: Stage) -> None:
    for request in await life(stage):
        assert request.header("grip-feature") == FEATURES


@shared
async def test_a_rule_may_leave_grip_out(stage: Stage) -> None:
    for request in await life(stage, {"Grip-Last": "forged"}, base="/plain"):
        assert [name for name in names(request) if name.startswith("grip")] == []
        assert request.header("sec-websocket-extensions") is None


@shared
async def test_a_trusted_clients_grip_headers_pass(stage: Stage) -> None:
    token = jwt.encode({"iss": "front", "exp": int(time.time()) + 600}, UPSTREAM, "HS256")
    sent = [("Grip-Sig", token), ("Grip-Feature", "status"), ("Grip-Other", "1")]
    for request in await life(stage, sent):
        got = [field for field in request.headers if field[0].lower().startswith("grip")]
        assert got == sent
        assert request.header("sec-websocket-extensions") == "grip"


# -- where the client is ---------------------------------------------------------------------


@shared
async def test_a_secure_client_is_told_as_wss(stage: Stage) -> None:
    sent = {"X-Forwarded-Proto": "forged"}
    for request in await life(stage, sent, port=stage.proxy.https_port, tls=client_context()):
        assert request.header("x-forwarded-proto") == "wss"
        assert request.header("x-forwarded-protocol") == "wss"


async def test_the_clients_address_is_appended_once(stage: Stage) -> None:
    """Pushpin 1.36 appends it again for every request."""
    token = jwt.encode({"exp": int(time.time()) + 600}, UPSTREAM, "HS256")
    for request in await life(stage, {"X-Forwarded-For": "10.0.0.1", "Grip-Sig": token}):
        assert request.header("x-forwarded-for") == "10.0.0.1, 127.0.0.1"
    for request in await life(stage, {"X-Forwarded-For": "10.0.0.1"}):
        assert request.header("x-forwarded-for") == "127.0.0.1"


@shared
async def test_the_clients_address_is_told_at_the_opening(stage: Stage) -> None:
    opening, *_ = await life(stage, {"X-Forwarded-For": "10.0.0.1"})
    assert opening.header("x-forwarded-for") == "127.0.0.1"


async def test_cdn_loop_gains_our_entry_once(stage: Stage) -> None:
    for request in await life(stage, {"CDN-Loop": "another"}):
        assert request.header("cdn-loop") == "another, ours"


# -- events ----------------------------------------------------------------------------------


MESSAGES = {
    "text": (TEXT, b"hello", b"TEXT 5\r\nhello\r\n"),
    "utf-8": (TEXT, "\u20ac".encode(), b"TEXT 3\r\n\xe2\x82\xac\r\n"),
    "like a control message": (TEXT, b"c:x", b"TEXT 3\r\nc:x\r\n"),
    "like a prefix": (TEXT, b"m:x", b"TEXT 3\r\nm:x\r\n"),
    "like events": (TEXT, b"\r\nCLOSE\r\n", b"TEXT 9\r\n\r\nCLOSE\r\n\r\n"),
    "longer": (TEXT, b"x" * 171, b"TEXT ab\r\n" + b"x" * 171 + b"\r\n"),
    "long": (TEXT, b"x" * 70_000, b"TEXT 11170\r\n" + b"x" * 70_000 + b"\r\n"),
    "empty text": (TEXT, b"", b"TEXT\r\n"),
    "binary": (BINARY, b"\0\xff", b"BINARY 2\r\n\0\xff\r\n"),
    "empty binary": (BINARY, b"", b"BINARY\r\n"),
    "ping": (PING, b"p", b"PING 1\r\np\r\n"),
    "empty ping": (PING, b"", b"PING\r\n"),
    "pong": (PONG, b"\0", b"PONG 1\r\n\0\r\n"),
    "empty pong": (PONG, b"", b"PONG\r\n"),
    "close": (CLOSE, b"", b"CLOSE\r\n"),
    "close with code": (CLOSE, b"\x03\xe8", b"CLOSE 2\r\n\x03\xe8\r\n"),
    "close with reason": (CLOSE, b"\x03\xe8bye", b"CLOSE 5\r\n\x03\xe8bye\r\n"),
    "longest close": (CLOSE, b"\x13" * 125, b"CLOSE 7d\r\n" + b"\x13" * 125 + b"\r\n"),
}


@shared
@pytest.mark.parametrize("case", MESSAGES)
async def test_a_message_as_event(stage: Stage, case: str) -> None:
    opcode, payload, event = MESSAGES[case]
    async with over_http(stage) as (client, backend):
        await client.send(opcode, payload)
        request, _ = await backend.next()
        assert request.body == event


@shared
async def test_opening_and_leaving_as_events(stage: Stage) -> None:
    opening, _, last = await life(stage)
    assert (opening.body, last.body) == (b"OPEN\r\n", b"DISCONNECT\r\n")
