"""Grip-Sig as backends see it, and what a trusted request may do."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import jwt
import pytest
import pytest_asyncio

from tests.support.backend import Backend, Request, response, start_backend
from tests.support.certs import ec_key, rsa_key
from tests.support.client import fetch, get
from tests.support.proxy import Proxy, start_proxy

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning"),
]
shared = pytest.mark.shared
Stage = tuple[Backend, Proxy]
UPSTREAM = "the key that the proxy in front of us signs with"


def token(key: str | bytes = UPSTREAM, algorithm: str = "HS256", **claims: Any) -> str:
    """A signature of the proxy in front, valid unless the claims say otherwise."""
    return jwt.encode({"iss": "front", "exp": int(time.time()) + 600, **claims}, key, algorithm)


def verified(request: Request, key: str | bytes, algorithm: str = "HS256") -> dict[str, Any]:
    """The claims of the request's Grip-Sig, which must be valid under `key`."""
    signature = request.header("grip-sig")
    assert signature is not None
    return jwt.decode(signature, key, algorithms=[algorithm])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    async with start_backend() as backend:
        binary = base64.b64encode(b"\x00\xff key").decode()
        routes = [
            f"* {backend.address}",
            f"*,path_beg=/iss,sig_iss=me {backend.address}",
            f"*,path_beg=/key,sig_iss=me,sig_key=other {backend.address}",
            f"*,path_beg=/only-key,sig_key=other {backend.address}",
            f'*,path_beg=/base64,sig_iss=me,sig_key="base64:{binary}" {backend.address}',
            f"*,path_beg=/ec,sig_iss=me,sig_key=file:ec.pem {backend.address}",
            f"*,path_beg=/rsa,sig_iss=me,sig_key=file:keys/rsa.pem {backend.address}",
            f"*,path_beg=/hex,sig_key=file:hex.key {backend.address}",
            f"*,path_beg=/broken,sig_key=file:missing.pem {backend.address}",
            f"*,path_beg=/plain,no_grip {backend.address}",
        ]
        files: Mapping[str, bytes | str] = {
            "ec.pem": ec_key().private,
            "keys/rsa.pem": rsa_key().private,
            "hex.key": b"secret of bytes".hex() + "\n",
        }
        settings = {
            "sig_key": "changeme",
            "upstream_key": UPSTREAM,
            "x_forwarded_for": "truncate:0,append",
        }
        settings["x_forwarded_for_trusted"] = "append"
        async with start_proxy(routes, proxy=settings, files=files) as proxy:
            yield backend, proxy


@pytest.fixture
def stage(running: Stage) -> Stage:
    running[0].reset()
    running[0].on("*", response(200, {}, b"ok"))
    return running


async def forwarded(stage: Stage, path: str, fields: Mapping[str, str] | None = None) -> Request:
    backend, proxy = stage
    assert (await get(proxy.port, path, fields or {})).body == b"ok"
    return await backend.next_request()


# -- signing -------------------------------------------------------------------


@shared
@pytest.mark.parametrize(("path", "issuer", "key", "algorithm"), [
    ("/", "pushpin", "changeme", "HS256"),
    ("/key", "me", "other", "HS256"),
    ("/base64", "me", b"\x00\xff key", "HS256"),
    ("/ec", "me", ec_key().public, "ES256"),
    ("/rsa", "me", rsa_key().public, "RS256"),
])  # fmt: skip
async def test_request_is_signed_with_the_key_of_the_route_or_of_the_config(
    stage: Stage, path: str, issuer: str, key: str | bytes, algorithm: str
) -> None:
    claims = verified(await forwarded(stage, path), key, algorithm)
    assert set(claims) == {"iss", "exp"}
    assert claims["iss"] == issuer


@pytest.mark.parametrize(("path", "issuer", "key"), [
    ("/iss", "me", "changeme"), ("/only-key", "pushpin", "other"),
])  # fmt: skip
async def test_route_may_name_the_issuer_or_the_key_alone(
    stage: Stage, path: str, issuer: str, key: str
) -> None:
    assert verified(await forwarded(stage, path), key)["iss"] == issuer


@shared
async def test_signature_is_good_for_about_an_hour(stage: Stage) -> None:
    claims = verified(await forwarded(stage, "/"), "changeme")
    assert 3500 < claims["exp"] - time.time() <= 3601


async def test_key_in_a_file_may_be_hexadecimal(stage: Stage) -> None:
    verified(await forwarded(stage, "/hex"), b"secret of bytes")


async def test_request_goes_unsigned_with_a_broken_key_and_the_log_says_so(stage: Stage) -> None:
    assert (await forwarded(stage, "/broken")).header("grip-sig") is None
    await stage[1].wait_log(r"missing\.pem")


async def test_request_goes_unsigned_without_a_key() -> None:
    async with start_backend() as backend, start_proxy(f"* {backend.address}") as proxy:
        backend.on("*", response(200, {}, b"ok"))
        request = await forwarded((backend, proxy), "/")
        assert request.header("grip-sig") is None
        assert request.header("grip-feature") is not None


@shared
async def test_key_file_of_the_config_is_found_beside_the_config() -> None:
    files = {"keys/sign.pem": ec_key().private}
    settings = {"sig_key": "file:keys/sign.pem", "sig_iss": "someone"}
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy=settings, files=files) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        request = await forwarded((backend, proxy), "/")
        assert verified(request, ec_key().public, "ES256")["iss"] == "someone"


# -- no_grip -------------------------------------------------------------------


@shared
async def test_route_without_grip_neither_signs_nor_announces(stage: Stage) -> None:
    request = await forwarded(stage, "/plain", {"Grip-Last": "x; last-id=1"})
    assert [n for n in request.names if n.lower().startswith("grip")] == []


@shared
async def test_route_without_grip_shows_instructions_to_the_client(stage: Stage) -> None:
    backend, proxy = stage
    backend.on("/plain", response(200, {"Grip-Hold": "stream", "Grip-Channel": "x"}, b"body"))
    r = await get(proxy.port, "/plain")
    assert (r.header("grip-hold"), r.header("grip-channel"), r.body) == ("stream", "x", b"body")


# -- trust ---------------------------------------------------------------------


@shared
async def test_trusted_request_keeps_its_grip_fields_and_gets_no_others(stage: Stage) -> None:
    fields = {"Grip-Sig": token(), "Grip-Last": "x; last-id=1", "Grip-Feature": "theirs"}
    request = await forwarded(stage, "/", fields)
    assert {n: v for n, v in request.headers if n.startswith("Grip-")} == fields


@shared
async def test_trusted_request_follows_the_trusted_rule_for_forwarded_for(stage: Stage) -> None:
    request = await forwarded(stage, "/", {"Grip-Sig": token(), "X-Forwarded-For": "1.1.1.1"})
    assert request.header("x-forwarded-for") == "1.1.1.1, 127.0.0.1"
    request = await forwarded(stage, "/", {"X-Forwarded-For": "1.1.1.1"})
    assert request.header("x-forwarded-for") == "127.0.0.1"


@shared
async def test_instructions_for_a_trusted_request_are_left_to_the_proxy_in_front(
    stage: Stage,
) -> None:
    backend, proxy = stage
    backend.on("/hold", response(200, {"Grip-Hold": "stream", "Grip-Channel": "x"}, b"body"))
    r = await get(proxy.port, "/hold", {"Grip-Sig": token()})
    assert (r.header("grip-hold"), r.framing, r.body) == ("stream", "length", b"body")


@shared
@pytest.mark.parametrize("signature", [
    token("another key that has a decent length"),
    token(exp=int(time.time()) - 10),
    jwt.encode({"iss": "front"}, UPSTREAM, "HS256"),
    jwt.encode({"exp": int(time.time()) + 600}, "", "none"),
    "",
    "not.a.token",
], ids=["other key", "expired", "no exp", "unsigned", "empty", "garbage"])  # fmt: skip
async def test_request_with_any_other_signature_is_not_trusted(
    stage: Stage, signature: str
) -> None:
    request = await forwarded(stage, "/", {"Grip-Sig": signature, "Grip-Last": "x; last-id=1"})
    assert request.header("grip-last") is None
    assert verified(request, "changeme")["iss"] == "pushpin"


async def test_signature_made_for_an_audience_is_not_trusted(stage: Stage) -> None:
    request = await forwarded(stage, "/", {"Grip-Sig": token(aud="somebody"), "Grip-Last": "x"})
    assert request.header("grip-last") is None


@shared
@pytest.mark.parametrize("key", [ec_key(), rsa_key()], ids=["ES256", "RS256"])
async def test_trust_by_a_public_key_accepts_its_algorithm_alone(key: Any) -> None:
    algorithm = "ES256" if key == ec_key() else "RS256"
    settings = {"upstream_key": "file:front.pem", "sig_key": "changeme"}
    async with (
        start_backend() as backend,
        start_proxy(
            f"* {backend.address}", proxy=settings, files={"front.pem": key.public}
        ) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        stage = backend, proxy
        request = await forwarded(
            stage, "/", {"Grip-Sig": token(key.private, algorithm), "Grip-A": "1"}
        )
        assert request.header("grip-a") == "1"
        # the public key is no secret: it must not serve as one
        forged = _hs256(key.public)
        request = await forwarded(stage, "/", {"Grip-Sig": forged, "Grip-A": "1"})
        assert request.header("grip-a") is None


def _hs256(key: bytes) -> str:
    """A token signed with a PEM text as HMAC secret, which PyJWT itself refuses to make."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = json.dumps({"iss": "front", "exp": int(time.time()) + 600}).encode()
    text = part(b'{"typ":"JWT","alg":"HS256"}') + b"." + part(claims)
    return (text + b"." + part(hmac.new(key, text, hashlib.sha256).digest())).decode()


@pytest.mark.parametrize("settings", [{"upstream_key": ""}, {}], ids=["empty", "absent"])
async def test_no_upstream_key_trusts_nobody(settings: dict[str, str]) -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address}", proxy=settings) as proxy,
    ):
        backend.on("*", response(200, {}, b"ok"))
        request = await forwarded((backend, proxy), "/", {"Grip-Sig": _hs256(b""), "Grip-A": "1"})
        assert request.header("grip-a") is None


@shared
async def test_client_cannot_post_websocket_events_itself() -> None:
    async with start_backend() as backend:
        routes = f"* {backend.address},over_http"
        settings = {"upstream_key": UPSTREAM}
        async with start_proxy(routes, proxy=settings) as proxy:
            backend.on("*", response(200, {}, b"ok"))
            events = {"Content-Type": "application/websocket-events"}
            r = await fetch(proxy.port, "POST", "/", events, b"OPEN\r\n")
            assert (r.status, r.body) == (
                403,
                b"Client not allowed to send WebSocket events directly.\n",
            )
            assert backend.requests == []
            r = await fetch(proxy.port, "POST", "/", {**events, "Grip-Sig": token()}, b"OPEN\r\n")
            assert r.body == b"ok"
