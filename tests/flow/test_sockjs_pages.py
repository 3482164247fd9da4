"""SockJS: what is answered without a session, and to whom."""

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh
from tests.flow.sockjs import NO_STORE, SOCKJS_URL, open_sockjs_stage
from tests.support.backend import response
from tests.support.client import Response, fetch, get
from tests.support.websocket import refused

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

INFO = rb'\{"cookie_needed":false,"entropy":([0-9]+),"origins":\["\*:\*"\],"websocket":true\}\n'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_sockjs_stage() as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def common(r: Response) -> tuple[str | None, str | None, str]:
    """What every answer carries: who may read it, with cookies or not, and for how long."""
    origin = r.header("access-control-allow-origin")
    return origin, r.header("access-control-allow-credentials"), r.all("cache-control")[-1]


@shared
async def test_info(stage: Stage) -> None:
    r = await get(stage.proxy.port, "/sock/info?t=1")
    assert (r.status, r.header("content-type"), r.framing) == (200, "text/plain", "length")
    found = re.fullmatch(INFO, r.body)
    assert found and int(found[1]) < 2**32
    assert json.loads(r.body)["entropy"] == int(found[1])


async def test_the_entropy_is_random(stage: Stage) -> None:
    bodies = {(await get(stage.proxy.port, "/sock/info")).body for _ in range(4)}
    assert len(bodies) == 4


@shared
@pytest.mark.parametrize("target", ["/sock/info", "/sock/iframe.html", "/sock/nothing"])
@pytest.mark.parametrize("origin", ["http://a.example", "null", None])
async def test_every_answer_is_for_all_origins_and_not_to_be_stored(
    stage: Stage, target: str, origin: str | None
) -> None:
    r = await get(stage.proxy.port, target, {"Origin": origin} if origin else {})
    assert common(r) == (origin or "*", "true", NO_STORE)


@shared
@pytest.mark.parametrize(
    "path", ["iframe.html", "iframe-0.1.2abc-dirty.2144.html?t=qwe", "iframe-.html"]
)
async def test_the_iframe_page(stage: Stage, path: str) -> None:
    r = await get(stage.proxy.port, "/sock/" + path)
    assert (r.status, r.header("content-type")) == (200, "text/html; charset=UTF-8")
    assert r.all("cache-control") == ["public, max-age=31536000", NO_STORE]
    assert f'<script src="{SOCKJS_URL}"></script>' in r.text
    assert r.text.startswith("<!DOCTYPE html>\n<html>\n<head>\n")
    assert "    SockJS.bootstrap_iframe();\n" in r.text
    assert r.header("etag") == f'"{hashlib.md5(r.body).hexdigest()}"'


@shared
async def test_the_iframe_page_is_asked_for_once(stage: Stage) -> None:
    etag = (await get(stage.proxy.port, "/sock/iframe.html")).header("etag") or ""
    r = await get(stage.proxy.port, "/sock/iframe.html", {"If-None-Match": etag})
    assert (r.status, r.body, r.header("etag")) == (304, b"", etag)
    r = await get(stage.proxy.port, "/sock/iframe.html", {"If-None-Match": '"other"'})
    assert r.status == 200


@shared
@pytest.mark.parametrize("path", ["/sock/info", "/sock", "/sock/000/s/xhr_send", "/sock/a/b/c/d"])
async def test_a_preflight(stage: Stage, path: str) -> None:
    asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    r = await fetch(stage.proxy.port, "OPTIONS", path, asked)
    assert (r.status, r.header("content-type"), r.body) == (204, "text/plain", b"")
    assert common(r) == ("http://a.example", "true", NO_STORE)


async def test_a_preflight_says_what_is_allowed(stage: Stage) -> None:
    asked = {"Origin": "null", "Access-Control-Request-Headers": "a, b"}
    r = await fetch(stage.proxy.port, "OPTIONS", "/sock/info", asked)
    assert r.header("access-control-allow-headers") == "a, b"
    assert r.header("access-control-allow-methods") == "OPTIONS, GET, POST"
    assert int(r.header("access-control-max-age") or 0) > 0


@pytest.mark.parametrize("path", ["/sock", "/sock/", "/sock?x"])
async def test_the_greeting(stage: Stage, path: str) -> None:
    r = await get(stage.proxy.port, path)
    assert (r.status, r.header("content-type")) == (200, "text/plain; charset=UTF-8")
    assert r.body == b"Welcome to SockJS!\n"


async def test_pages_have_heads(stage: Stage) -> None:
    r = await fetch(stage.proxy.port, "HEAD", "/sock/iframe.html")
    assert (r.status, r.header("content-type")) == (200, "text/html; charset=UTF-8")


@shared
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sock/nothing"),
        ("GET", "/sockless"),
        ("GET", "/sock/iframe.htm"),
        ("GET", "/sock//info"),
        ("POST", "/sock/info"),
        ("POST", "/sock/iframe.html"),
        ("GET", "/sock/000/{}/xhr"),
        ("GET", "/sock/000/{}/websocket"),
        ("POST", "/sock/000/{}/htmlfile"),
        ("GET", "/sock/000/{}/htmlfile?c=f"),
        ("POST", "/sock/000/{}/xhr_send"),
        ("POST", "/sock/000/{}/jsonp_send"),
        ("POST", "/sock/000/{}/xhr/more"),
        ("POST", "/sock/000/xhr"),
    ],
)
async def test_what_there_is_not(stage: Stage, method: str, path: str) -> None:
    body = b'["x"]' if method == "POST" else None
    r = await fetch(stage.proxy.port, method, path.format(fresh("s")), (), body)
    assert (r.status, r.header("content-type"), r.body) == (404, "text/plain", b"Not Found\n")
    assert common(r) == ("*", "true", NO_STORE)
    assert stage.backend.requests == []


@pytest.mark.parametrize("path", ["/sock/000//xhr", "/sock//abc/xhr", "/sock/iframe-/.html"])
async def test_what_is_spelt_wrong(stage: Stage, path: str) -> None:
    r = await fetch(stage.proxy.port, "POST", path, (), b"")
    assert (r.status, r.body) == (404, b"Not Found\n")


@shared
@pytest.mark.parametrize("path", ["/sock/nothing", "/sock", "/sock/000/s", "/sock/a/b/c/d"])
async def test_where_there_is_no_socket(stage: Stage, path: str) -> None:
    r = await refused(stage.proxy.port, path)
    assert (r.status, r.header("content-type"), r.body) == (404, "text/plain", b"Not Found\n")
    assert stage.backend.requests == []


@shared
async def test_what_is_beside_the_prefix_is_proxied(stage: Stage) -> None:
    stage.backend.on("/soc/info", response(body=b"beside"))
    assert (await get(stage.proxy.port, "/soc/info")).body == b"beside"


async def test_a_way_around_the_prefix_leads_to_it(stage: Stage) -> None:
    r = await get(stage.proxy.port, "/x/../sock/info")
    assert re.fullmatch(INFO, r.body)
