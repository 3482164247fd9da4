"""Response holds that nothing answers. Five seconds is the least, so all of them wait together."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.flow.holding import (
    fresh,
    hold,
    instruct,
    line,
    open_stage,
    visible,
)
from tests.support.backend import response
from tests.support.client import Fields, Response, connect, encode_request, pairs

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

SCRIPT = "/aco/script"
QUERIES = {SCRIPT: "?callback=f"}
VERSIONS = {"/old": "HTTP/1.0"}
# Pushpin asks the backend again after one second, which starts the time anew.
LATE_SECONDS = 3.0


class Outcome(NamedTuple):
    """When and how a hold ended, and what its connection answered to the next request."""

    seconds: float
    response: Response
    next_body: bytes


def waiting(seconds: str, headers: Fields = (), body: bytes = b"") -> bytes:
    return hold("response", fresh(), [("Grip-Timeout", seconds), *pairs(headers)], body)


DOCUMENT = {
    "hold": {
        "channels": [{"name": "by document"}],
        "timeout": 5,
        "keep-alive": {"content": "k", "timeout": 1},
    },
    "response": {"code": 299, "reason": "Late", "headers": {"X": "2"}, "body-bin": "AP8="},
}
ANSWERS = {
    "/zero": waiting("0", body=b"zero"),
    "/one": waiting("1", {"Grip-Keep-Alive": "k; timeout=1; mode=interval"}, b"one"),
    "/six": waiting("6", body=b"six"),
    "/status": waiting("5", {"Grip-Status": "404 Nothing", "A": "1"}, b"none"),
    "/exposed": waiting("5", {"Grip-Expose-Headers": "a", "A": "1", "B": "2"}),
    "/document": instruct(DOCUMENT),
    "/old": waiting("5", body=b"old"),
    "/nowhere": response(200, {"Grip-Hold": "response", "Grip-Timeout": "5"}, b"nowhere"),
    "/aco/page": waiting("5"),
    SCRIPT: waiting("5", {"Grip-Status": "404", "X": "1"}, b"none"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outcomes() -> AsyncIterator[dict[str, Outcome]]:
    async with open_stage("*,path_beg=/aco/,aco", "*") as stage:
        for path, answer in ANSWERS.items():
            stage.backend.on(path, answer)
        stage.backend.on("/next", response(body=b"next"))
        ended: dict[str, Outcome] = {}

        async def wait(path: str) -> None:
            async with connect(stage.proxy.port) as client:
                start = time.monotonic()
                target = path + QUERIES.get(path, "")
                version = VERSIONS.get(path, "HTTP/1.1")
                await client.send(encode_request("GET", target, version=version))
                r = await client.read_response()
                seconds = time.monotonic() - start
                if version == "HTTP/1.0":
                    next_body = await client.read_all()
                else:
                    next_body = (await client.request("GET", "/next")).body
                ended[path] = Outcome(seconds, r, next_body)

        async with stage.streaming(still := fresh(), {"Grip-Timeout": "5"}) as (stream, _):
            async with asyncio.TaskGroup() as group:
                for path in ANSWERS:
                    group.create_task(wait(path))
            await stage.proxy.publish(line(still, "still open"))
            assert await stream.read_bytes(10) == b"still open"
        yield ended


@shared
@pytest.mark.parametrize("path", ["/zero", "/one", "/status", "/document", "/nowhere"])
async def test_a_timeout_is_five_seconds_at_least(outcomes: dict[str, Outcome], path: str) -> None:
    assert 4.95 <= outcomes[path].seconds <= 5 + LATE_SECONDS


@shared
async def test_a_longer_timeout_is_kept(outcomes: dict[str, Outcome]) -> None:
    assert 5.95 <= outcomes["/six"].seconds <= 6 + LATE_SECONDS


@shared
@pytest.mark.parametrize("path", ["/zero", "/one", "/six", "/nowhere"])
async def test_the_answer_is_the_body_of_the_instruction(
    outcomes: dict[str, Outcome], path: str
) -> None:
    """And no byte of a keep-alive."""
    r = outcomes[path].response
    assert (r.status, r.reason, r.framing, r.text) == (200, "OK", "length", path[1:])


@shared
async def test_the_answer_has_the_status_and_headers_of_the_instruction(
    outcomes: dict[str, Outcome],
) -> None:
    r = outcomes["/status"].response
    assert (r.status, r.reason, visible(r), r.body) == (404, "Nothing", [("A", "1")], b"none")


@shared
async def test_only_exposed_headers_are_in_the_answer(outcomes: dict[str, Outcome]) -> None:
    assert visible(outcomes["/exposed"].response) == [("A", "1")]


@shared
async def test_the_answer_is_the_response_of_the_document(outcomes: dict[str, Outcome]) -> None:
    r = outcomes["/document"].response
    assert (r.status, r.reason, visible(r), r.body) == (299, "Late", [("X", "2")], b"\0\xff")


@shared
async def test_an_http_1_0_client_gets_a_length_and_the_end(outcomes: dict[str, Outcome]) -> None:
    r = outcomes["/old"].response
    assert (r.version, r.header("Content-Length"), r.body) == ("HTTP/1.0", "3", b"old")
    assert outcomes["/old"].next_body == b""


@shared
async def test_the_connection_serves_the_next_request(outcomes: dict[str, Outcome]) -> None:
    assert {o.next_body for path, o in outcomes.items() if path != "/old"} == {b"next"}


@shared
async def test_the_answer_gets_the_fields_of_cors(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["/aco/page"].response.header("Access-Control-Allow-Origin") == "*"


@shared
async def test_the_answer_may_be_a_script(outcomes: dict[str, Outcome]) -> None:
    r = outcomes[SCRIPT].response
    assert (r.status, r.header("Content-Type")) == (200, "application/javascript")
    script = '/**/f({"body":"none","code":404,"headers":{"X":"1"},"reason":"Not Found"});\n'
    assert r.text == script
