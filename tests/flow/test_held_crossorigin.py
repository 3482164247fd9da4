"""CORS and JSON-P on held responses."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, hold, in_turn, line, open_stage, reply, visible
from tests.support.client import Response

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

METHODS = ("Access-Control-Allow-Methods", "OPTIONS, HEAD, GET, POST, PUT, DELETE")
CREDENTIALS = ("Access-Control-Allow-Credentials", "true")
AGE = ("Access-Control-Max-Age", "3600")
BASIC = "*,path_beg=/basic/,aco,jsonp_mode=basic,jsonp_cb=cb,jsonp_body=data,jsonp_defcb=main"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*,path_beg=/aco/,aco", BASIC, "*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def origin(value: str) -> tuple[str, str]:
    return ("Access-Control-Allow-Origin", value)


def exposed(value: str) -> tuple[str, str]:
    return ("Access-Control-Expose-Headers", value)


async def polled(stage: Stage, target: str, answer: Any, *items: Any, **request: Any) -> Response:
    """The answer to a long-poll on a fresh channel; `answer` and `items` are made for it."""
    c = fresh()
    path = target.partition("?")[0]
    published = [item(c) for item in items]
    return await stage.answer_to(answer(c), c, *published, path=path, target=target, **request)


# -- CORS ------------------------------------------------------------------------------------


@shared
async def test_the_answer_to_a_poll_gets_the_fields_in_order(stage: Stage) -> None:
    headers = {"X-Foo": "1", "Cache-Control": "no-cache"}
    r = await polled(
        stage,
        "/aco/" + fresh(),
        lambda c: hold("response", c, headers),
        lambda c: reply(c, "x", headers=[["X-Bar", "2"], ["Content-Type", "text/plain"]]),
        headers={"Origin": "http://o.example"},
    )
    assert visible(r) == [
        ("X-Foo", "1"),
        ("Cache-Control", "no-cache"),
        ("X-Bar", "2"),
        ("Content-Type", "text/plain"),
        METHODS,
        exposed("X-Foo, X-Bar"),
        CREDENTIALS,
        origin("http://o.example"),
        AGE,
    ]


@shared
async def test_a_held_preflight_gets_what_it_asked_for(stage: Stage) -> None:
    r = await polled(
        stage,
        "/aco/" + fresh(),
        lambda c: hold("response", c, {"Access-Control-Max-Age": "1"}),
        lambda c: reply(c, "x"),
        method="OPTIONS",
        headers={
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "X-A, X-B",
        },
    )
    assert visible(r) == [
        ("Access-Control-Max-Age", "1"),
        ("Access-Control-Allow-Methods", "PUT"),
        ("Access-Control-Allow-Headers", "X-A, X-B"),
        CREDENTIALS,
        origin("*"),
    ]


@shared
async def test_fields_of_the_item_stay(stage: Stage) -> None:
    r = await polled(
        stage,
        "/aco/" + fresh(),
        lambda c: hold("response", c),
        lambda c: reply(c, "x", headers={"access-control-allow-origin": "http://mine"}),
    )
    assert visible(r) == [("access-control-allow-origin", "http://mine"), METHODS, CREDENTIALS, AGE]


@shared
@pytest.mark.parametrize("size", [4, 100_001])
async def test_a_stream_gets_the_fields(stage: Stage, size: int) -> None:
    c = fresh()
    path = "/aco/" + fresh()
    async with stage.streaming(c, {"X-Foo": "1"}, b"x" * size, path=path) as (client, r):
        assert visible(r) == [
            ("X-Foo", "1"), METHODS, exposed("X-Foo"), CREDENTIALS, origin("*"), AGE,
        ]  # fmt: skip
        await stage.proxy.publish(line(c, "news"))
        assert await client.read_bytes(size + 4) == b"x" * size + b"news"


@shared
async def test_an_error_gets_the_fields(stage: Stage) -> None:
    async with stage.held(hold("never", "c"), path="/aco/bad") as client:
        r = await client.read_response()
    assert (r.status, visible(r)) == (
        502,
        [("Content-Type", "text/plain"), METHODS, CREDENTIALS, origin("*"), AGE],
    )


@shared
async def test_routes_without_aco_get_none(stage: Stage) -> None:
    r = await polled(
        stage, "/" + fresh(), lambda c: hold("response", c), lambda c: reply(c, "x"),
        headers={"Origin": "http://o.example"},
    )  # fmt: skip
    assert visible(r) == []


# -- JSON-P ----------------------------------------------------------------------------------


@shared
async def test_the_answer_to_a_poll_is_a_script(stage: Stage) -> None:
    """Compact with sorted keys, unlike the script of an answer that was not held."""
    headers = [("X-Foo", "1"), ("Z", "1"), ("X-Foo", "2"), ("Content-Type", "text/plain")]
    r = await polled(
        stage,
        f"/aco/{fresh()}?callback=f&a=b",
        lambda c: hold("response", c, headers),
        lambda c: reply(c, 'a"<\n', code=404, headers=[["X-Bar", "2"]]),
    )
    assert (r.status, r.reason, r.framing) == (200, "OK", "length")
    assert visible(r) == [
        ("X-Foo", "1"),
        ("Z", "1"),
        ("X-Foo", "2"),
        ("X-Bar", "2"),
        ("Content-Type", "application/javascript"),
    ]
    assert r.text == (
        '/**/f({"body":"a\\"<\\n","code":404,'
        '"headers":{"Content-Type":"text/plain","X-Bar":"2","X-Foo":"1, 2","Z":"1"},'
        '"reason":"Not Found"});\n'
    )


@shared
async def test_the_callback_is_not_shown_to_the_backend(stage: Stage) -> None:
    path = "/aco/" + fresh()
    await polled(
        stage, path + "?callback=f&a=b", lambda c: hold("response", c), lambda c: reply(c, "x")
    )
    (request,) = await stage.requests_for(path, 1)
    assert request.target == path + "?a=b"


@shared
async def test_the_basic_form_is_the_body_alone(stage: Stage) -> None:
    r = await polled(
        stage,
        f"/basic/{fresh()}?cb=f",
        lambda c: hold("response", c, {"X-Foo": "1"}),
        lambda c: reply(c, '{"a":1}\n', code=404),
    )
    assert (r.status, r.text) == (200, '/**/f({"a":1});\n')
    assert visible(r) == [("X-Foo", "1"), ("Content-Type", "application/javascript")]


@shared
async def test_the_default_callback_counts_when_a_body_is_given(stage: Stage) -> None:
    path = "/basic/" + fresh()
    target = path + "?data=%7B%22q%22%3A1%7D"
    r = await polled(stage, target, lambda c: hold("response", c), lambda c: reply(c, '"x"'))
    assert r.text == '/**/main("x");\n'
    (request,) = await stage.requests_for(path, 1)
    assert (request.method, request.target, request.body) == ("POST", path, b'{"q":1}')
    assert request.header("Content-Type") == "application/json"


@shared
async def test_a_retry_repeats_the_request_in_the_callback_s_parameters(stage: Stage) -> None:
    path = "/aco/" + fresh()
    target = path + "?callback=f&_method=POST&_headers=%7B%22X-Q%22%3A%221%22%7D&_body=hello&z=1"
    c, d = fresh(), fresh()
    answers = in_turn(hold("response", f"{c}; prev-id=1"), hold("response", d))
    async with stage.held(answers, c, path=path, target=target) as client:
        await stage.proxy.publish(reply(c, action="hint"))
        await stage.proxy.wait_subscribed(d)
        await stage.proxy.publish(reply(d, "ok"))
        r = await client.read_response()
    assert r.text == '/**/f({"body":"ok","code":200,"headers":{},"reason":"OK"});\n'
    before, after = await stage.requests_for(path, 2)
    for request in (before, after):
        assert (request.method, request.target, request.body) == ("POST", path + "?z=1", b"hello")
        assert request.header("X-Q") == "1"
    assert after.all("Grip-Last") == [f"{c}; last-id=1"]


@shared
async def test_a_stream_is_never_a_script(stage: Stage) -> None:
    c = fresh()
    path = "/aco/" + fresh()
    async with stage.streaming(c, {}, b"open ", path=path, target=path + "?callback=f") as (
        client,
        r,
    ):
        assert (r.framing, r.all("Content-Type")) == ("chunked", [])
        assert origin("*") in visible(r)
        await stage.proxy.publish(line(c, "news"))
        assert await client.read_bytes(9) == b"open news"


@shared
async def test_an_error_is_a_script(stage: Stage) -> None:
    async with stage.held(
        hold("never", "c"), path="/aco/bad", target="/aco/bad?callback=f"
    ) as client:
        r = await client.read_response()
    assert (r.status, r.header("Content-Type")) == (200, "application/javascript")
    assert r.text.startswith('/**/f({"code": 502, "reason": "Bad Gateway", "headers": {')
    assert r.text.endswith(', "body": "Error while proxying to origin.\\n"});\n')
