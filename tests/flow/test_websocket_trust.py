"""Grip-Sig on what WebSocket backends get, and clients that are proxies in front of this one."""

import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OVER_HTTP, message, over_http, relayed
from tests.support.backend import Request, start_backend
from tests.support.proxy import start_proxy
from tests.support.websocket import (
    BINARY,
    TEXT,
    Event,
    SocketBackend,
    WohBackend,
    accept,
    close_payload,
    control,
    events,
    open_socket,
)

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
]
shared = pytest.mark.shared

UPSTREAM = "the key that the proxy in front of us signs with"
EXTENSIONS = "Sec-WebSocket-Extensions"
GRIP_X = [(EXTENSIONS, "grip; message-prefix=x:")]
RAW = ("none", "x:two", "m:one", 'c:{"type":"detach"}')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    routes = [
        "*",
        OVER_HTTP,
        "*,path_beg=/key,sig_iss=me,sig_key=other",
        "*,path_beg=/key/woh,sig_iss=me,sig_key=other -> over_http",
        "*,path_beg=/plain,no_grip",
        "*,path_beg=/plain/woh,no_grip -> over_http",
        "*,path_beg=/sub -> sub=implied",
        "*,path_beg=/sub/woh -> over_http,sub=implied-too",
    ]
    settings = {
        "sig_key": "changeme",
        "upstream_key": UPSTREAM,
        "x_forwarded_for": "truncate:0,append",
        "x_forwarded_for_trusted": "append",
    }
    async with open_stage(*routes, proxy=settings) as it:
        yield it


def token(key: str = UPSTREAM, **claims: Any) -> str:
    """A signature of the proxy in front, valid unless the claims say otherwise."""
    return jwt.encode({"iss": "front", "exp": int(time.time()) + 600, **claims}, key, "HS256")


def trusted() -> list[tuple[str, str]]:
    """Fields of a handshake that a proxy in front sends."""
    return [("Grip-Sig", token()), ("Grip-Feature", "theirs"), ("Grip-Other", "1")]


def check_signed(request: Request, issuer: str = "pushpin", key: str = "changeme") -> None:
    """One signature, good for about an hour, that says nothing else."""
    signature = request.header("grip-sig")
    assert signature is not None
    claims = jwt.decode(signature, key, algorithms=["HS256"])
    assert set(claims) == {"iss", "exp"}
    assert claims["iss"] == issuer
    assert 3500 < claims["exp"] - time.time() <= 3601


def grip_fields(request: Request) -> dict[str, str]:
    """The fields that speak of GRIP; the last of a name counts."""
    return {n: v for n, v in request.headers if n.lower().startswith("grip-")}


# -- signing -----------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(("base", "issuer", "key"), [
    ("/ws", "pushpin", "changeme"), ("/key", "me", "other"),
])  # fmt: skip
async def test_handshake_is_signed(stage: Stage, base: str, issuer: str, key: str) -> None:
    async with relayed(stage, base=base) as (_, inner):
        check_signed(inner.request, issuer, key)


@shared
@pytest.mark.parametrize(("base", "issuer", "key"), [
    ("/woh", "pushpin", "changeme"), ("/key/woh", "me", "other"),
])  # fmt: skip
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "is lost"])
async def test_each_request_over_http_is_signed(
    stage: Stage, base: str, issuer: str, key: str, closes: bool
) -> None:
    backend = WohBackend(stage.backend, f"{base}/{fresh()}")
    async with open_socket(stage.proxy.port, backend.path) as client:
        await client.send_text("content")
        if closes:
            await client.send_close(4000)
        seen: list[Event] = []
        while len(seen) < (3 if closes else 2):
            request, got = await backend.next()
            check_signed(request, issuer, key)
            seen += got
    if closes:
        assert seen == [Event("OPEN"), Event("TEXT", b"content"), Event("CLOSE", b"\x0f\xa0")]
    else:
        request, got = await backend.next()
        check_signed(request, issuer, key)
        assert got == DISCONNECT


@shared
async def test_fields_of_a_client_that_nobody_trusts_are_replaced(stage: Stage) -> None:
    fields = [("Grip-Sig", "theirs"), ("Grip-Feature", "theirs"), ("Grip-Other", "1")]
    async with relayed(stage, headers=fields) as (_, inner):
        check_signed(inner.request)
        assert set(grip_fields(inner.request)) == {"Grip-Sig", "Grip-Feature"}
        assert inner.request.header("grip-feature") != "theirs"
    backend = WohBackend(stage.backend, f"/woh/{fresh()}")
    async with open_socket(stage.proxy.port, backend.path, fields):
        request, _ = await backend.next()
        check_signed(request)
        assert set(grip_fields(request)) == {"Grip-Sig", "Grip-Feature"}


@shared
async def test_route_without_grip_signs_nothing(stage: Stage) -> None:
    fields = [("Grip-Sig", "theirs"), ("Grip-Other", "1")]
    async with relayed(stage, headers=fields, base="/plain") as (_, inner):
        assert grip_fields(inner.request) == {}
    backend = WohBackend(stage.backend, f"/plain/woh/{fresh()}")
    async with open_socket(stage.proxy.port, backend.path, fields) as client:
        await client.send_text("content")
        for _ in range(2):
            assert grip_fields((await backend.next())[0]) == {}


# -- a proxy in front: what the backend gets ---------------------------------------------------


@shared
@pytest.mark.parametrize("base", ["/ws", "/plain"])
async def test_fields_of_a_trusted_handshake_stay(stage: Stage, base: str) -> None:
    fields = trusted()
    async with relayed(stage, headers=fields, base=base) as (_, inner):
        assert grip_fields(inner.request) == dict(fields)
        for name, value in fields:
            assert inner.request.header(name) == value


@shared
@pytest.mark.parametrize("base", ["/woh", "/plain/woh"])
async def test_fields_of_a_trusted_client_stay_on_each_request_over_http(
    stage: Stage, base: str
) -> None:
    """Pushpin from 1.41 on signs these itself."""
    fields = trusted()
    backend = WohBackend(stage.backend, f"{base}/{fresh()}")
    async with open_socket(stage.proxy.port, backend.path, fields) as client:
        request, _ = await backend.next()
        assert grip_fields(request) == dict(fields)
        await client.send_text("content")
        request, got = await backend.next()
        assert grip_fields(request) == dict(fields)
        assert got == [Event("TEXT", b"content")]
    request, got = await backend.next()
    assert grip_fields(request) == dict(fields)
    assert got == DISCONNECT


FORWARDED = pytest.mark.parametrize(("signed", "addresses"), [
    (True, "1.1.1.1, 127.0.0.1"), (False, "127.0.0.1"),
], ids=["trusted", "untrusted"])  # fmt: skip


@shared
@FORWARDED
async def test_forwarded_for_follows_the_rule_of_the_client(
    stage: Stage, signed: bool, addresses: str
) -> None:
    fields = [("X-Forwarded-For", "1.1.1.1"), *(trusted() if signed else [])]
    async with relayed(stage, headers=fields) as (_, inner):
        assert inner.request.header("x-forwarded-for") == addresses


@FORWARDED
async def test_forwarded_for_is_the_same_on_each_request_over_http(
    stage: Stage, signed: bool, addresses: str
) -> None:
    """Pushpin 1.36 adds to it each time."""
    fields = [("X-Forwarded-For", "1.1.1.1"), *(trusted() if signed else [])]
    backend = WohBackend(stage.backend, f"/woh/{fresh()}")
    async with open_socket(stage.proxy.port, backend.path, fields) as client:
        for _ in range(3):
            request, _ = await backend.next()
            assert request.header("x-forwarded-for") == addresses
            await client.send_text("more")


@shared
async def test_grip_is_asked_for_whether_the_client_is_trusted_or_not(stage: Stage) -> None:
    fields = [*trusted(), (EXTENSIONS, "grip, x-other")]
    async with relayed(stage, headers=fields) as (_, inner):
        assert inner.request.all(EXTENSIONS) == ["grip"]
    backend = WohBackend(stage.backend, f"/woh/{fresh()}")
    async with open_socket(stage.proxy.port, backend.path, fields):
        request, _ = await backend.next()
        assert request.all(EXTENSIONS) == ["grip"]


# -- a proxy in front: what the client gets ----------------------------------------------------


@shared
async def test_relay_passes_everything_to_a_trusted_client(stage: Stage) -> None:
    async with relayed(stage, GRIP_X, trusted()) as (client, inner):
        for text in RAW:
            await inner.send_text(text)
            await inner.send(BINARY, text.encode())
            assert await client.read_text() == text
            assert await client.read_message() == (BINARY, text.encode())
            await client.send_text(text)
            assert await inner.read_text() == text


@shared
async def test_events_over_http_all_go_to_a_trusted_client(stage: Stage) -> None:
    texts = [Event("TEXT", text.encode()) for text in RAW]
    async with over_http(stage, accept(*texts, grip=False, headers=GRIP_X), trusted()) as (
        client,
        backend,
    ):
        assert [await client.read_text() for _ in RAW] == list(RAW)
        closing = ("CLOSE", close_payload(4000, b"bye"))
        backend.answers.append(events(*texts, ("BINARY", b"none"), closing))
        await client.send_text(RAW[-1])
        assert await backend.next_events() == [Event("TEXT", RAW[-1].encode())]
        assert [await client.read_text() for _ in RAW] == list(RAW)
        assert await client.read_message() == (BINARY, b"none")
        assert await client.read_close() == (4000, b"bye")


@shared
async def test_backend_of_a_trusted_client_controls_nothing_here(stage: Stage) -> None:
    channel = fresh()
    subscribe = control(type="subscribe", channel=channel)
    text = (subscribe.content or b"").decode()
    async with (
        relayed(stage, headers=trusted()) as (first, inner),
        over_http(stage, accept(subscribe), trusted()) as (second, _),
    ):
        await inner.send_text(text)
        assert await first.read_text() == text
        assert await second.read_text() == text
        await stage.proxy.publish(message(channel, "published"))
        await stage.proxy.wait_log(rf"publish channel={channel} receivers=0")


@pytest.mark.parametrize("value", [
    "grip", "grip; message-prefix=x:", 'grip; message-prefix=""', "grip; other=1",
])  # fmt: skip
async def test_extension_of_the_backend_is_for_the_trusted_client(stage: Stage, value: str) -> None:
    """Pushpin's front end takes it away."""
    fields = [(EXTENSIONS, value)]
    async with relayed(stage, fields, trusted()) as (client, _):
        assert client.response.header(EXTENSIONS) == value
    async with over_http(stage, accept(grip=False, headers=fields), trusted()) as (client, _):
        assert client.response.header(EXTENSIONS) == value


@shared
async def test_trusted_client_of_a_backend_without_grip_hears_of_none(stage: Stage) -> None:
    async with relayed(stage, (), trusted()) as (client, inner):
        assert client.response.header(EXTENSIONS) is None
        await inner.send_text("none")
        assert await client.read_text() == "none"


@shared
async def test_target_subscribes_trusted_clients_too(stage: Stage) -> None:
    async with relayed(stage, GRIP_X, trusted(), base="/sub") as (client, inner):
        await stage.proxy.wait_subscribed("implied")
        await stage.proxy.publish(message("implied", "published"))
        assert await client.read_text() == "published"
        await inner.send_text("none")
        assert await client.read_text() == "none"
    async with over_http(stage, accept(), trusted(), base="/sub/woh") as (client, _):
        await stage.proxy.wait_subscribed("implied-too")
        await stage.proxy.publish(message("implied-too", "published"))
        assert await client.read_text() == "published"


@shared
@pytest.mark.parametrize("signature", [
    token("another key that has a decent length"),
    token(exp=int(time.time()) - 10),
    jwt.encode({"iss": "front"}, UPSTREAM, "HS256"),
    "",
], ids=["other key", "expired", "no exp", "empty"])  # fmt: skip
async def test_client_with_any_other_signature_is_not_trusted(stage: Stage, signature: str) -> None:
    fields = [("Grip-Sig", signature), ("Grip-Other", "1")]
    async with relayed(stage, GRIP_X, fields) as (client, inner):
        check_signed(inner.request)
        assert inner.request.header("grip-other") is None
        for text in RAW[:3]:
            await inner.send_text(text)
        await inner.send_text("x:after")
        assert [await client.read_text(), await client.read_text()] == ["two", "after"]


# -- a proxy in front: both together -----------------------------------------------------------


async def test_proxy_in_front_obeys_the_backend_behind_the_second() -> None:
    async with start_backend() as backend:
        inner_routes = [f"* {backend.address}", f"*,path_beg=/woh {backend.address},over_http"]
        async with (
            start_proxy(inner_routes, proxy={"upstream_key": "shared"}) as inner,
            start_proxy(f"* 127.0.0.1:{inner.port}", proxy={"sig_key": "shared"}) as front,
            SocketBackend(backend, "/ws", GRIP_X) as server,
        ):
            woh = WohBackend(backend, "/woh")
            woh.answers.append(accept(control(type="subscribe", channel="over-http")))
            async with (
                open_socket(front.port, "/ws") as first,
                open_socket(front.port, "/woh") as second,
            ):
                relay = await server.next()
                await relay.send(TEXT, control(type="subscribe", channel="relayed").content or b"")
                await front.wait_subscribed("relayed")
                await front.wait_subscribed("over-http")
                items = message("relayed", "published"), message("over-http", "published")
                await front.publish(*items)
                assert await first.read_text() == await second.read_text() == "published"
                await relay.send_text("x:content")
                assert await first.read_text() == "content"
                woh.answers.append(events(("TEXT", "m:content")))
                await second.send_text("more")
                assert await second.read_text() == "content"
                assert "subscribe " not in inner.log()
