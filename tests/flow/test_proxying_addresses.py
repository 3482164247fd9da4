"""Names with several addresses: the pool with real connections and made-up answers."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.pool import Limits, Pool
from gripproxy.deadlines import Deadlines
from gripproxy.errors import BackendError, BlockedError, ConnectError
from gripproxy.routes import Target
from tests.support.backend import Backend, start_backend


class Waiter:
    """Turns the pool's calls into a future."""

    def __init__(self) -> None:
        self.result: asyncio.Future[BackendConnection] = asyncio.Future()

    def on_connected(self, connection: BackendConnection) -> None:
        self.result.set_result(connection)

    def on_unconnected(self, error: BackendError) -> None:
        self.result.set_exception(error)


class Names:
    """What names resolve to; `asked` has every question."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []

    async def getaddrinfo(self, host: str, port: object, **_: object) -> list[Any]:
        self.asked.append(host)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        family, kind = socket.AF_INET, socket.SOCK_STREAM
        return [(family, kind, 6, "", (address, 0)) for address in self.answers[host]]


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[Backend]:
    async with start_backend() as it:
        yield it


async def connected(pool: Pool, target: Target) -> BackendConnection:
    """A new connection to `target`."""
    waiter = Waiter()
    connection = pool.acquire(target, None, waiter, fresh=True)
    assert connection is None
    async with asyncio.timeout(5):
        return await waiter.result


async def make_pool(monkeypatch: pytest.MonkeyPatch, names: Names, limits: Limits) -> Pool:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "getaddrinfo", names.getaddrinfo)
    return Pool(loop, Deadlines(loop), limits)


async def test_next_address_is_tried_where_one_refuses(
    monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    names = Names()
    # the whole of 127/8 is this machine, and nobody listens on the first two
    names.answers["two.example"] = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    pool = await make_pool(monkeypatch, names, Limits())
    connection = await connected(pool, Target("two.example", backend.port))
    assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
    await pool.close()


async def test_target_fails_when_every_address_refuses(
    monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    names = Names()
    names.answers["none.example"] = ["127.0.0.2", "127.0.0.3"]
    pool = await make_pool(monkeypatch, names, Limits())
    with pytest.raises(ConnectError, match=r"127\.0\.0\.2.*127\.0\.0\.3"):
        await connected(pool, Target("none.example", backend.port))
    await pool.close()


async def test_answers_are_remembered_for_dns_ttl(
    monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    names = Names()
    names.answers["a.example"] = ["127.0.0.1"]
    pool = await make_pool(monkeypatch, names, Limits(dns_ttl=30))
    for _ in range(3):
        await connected(pool, Target("a.example", backend.port))
    assert names.asked == ["a.example"]
    await pool.close()


async def test_answers_are_asked_for_again_after_dns_ttl(
    monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    names = Names()
    names.answers["a.example"] = ["127.0.0.2"]
    pool = await make_pool(monkeypatch, names, Limits(dns_ttl=0))
    with pytest.raises(ConnectError):
        await connected(pool, Target("a.example", backend.port))
    names.answers["a.example"] = ["127.0.0.1"]
    await connected(pool, Target("a.example", backend.port))
    assert names.asked == ["a.example"] * 2
    await pool.close()


async def test_name_that_was_unknown_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    names = Names()
    pool = await make_pool(monkeypatch, names, Limits())
    with pytest.raises(ConnectError, match=r"late\.example"):
        await connected(pool, Target("late.example", backend.port))
    names.answers["late.example"] = ["127.0.0.1"]
    await connected(pool, Target("late.example", backend.port))
    await pool.close()


async def test_untrusted_target_skips_private_addresses(
    monkeypatch: pytest.MonkeyPatch, backend: Backend
) -> None:
    names = Names()
    names.answers["inside.example"] = ["127.0.0.1", "10.0.0.1", "169.254.1.1"]
    pool = await make_pool(monkeypatch, names, Limits())
    with pytest.raises(BlockedError):
        await connected(pool, Target("inside.example", backend.port, untrusted=True))
    assert backend.connections == 0
    await pool.close()
