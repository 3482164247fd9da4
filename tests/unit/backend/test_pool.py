"""Connections to backends: made, shared, kept and bounded. The backends are real, on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from gripproxy.backend import pool as pool_module
from gripproxy.backend.connection import BackendConnection
from gripproxy.backend.pool import Limits, Pool
from gripproxy.deadlines import NEVER, Deadlines, Timed
from gripproxy.errors import BackendError, BlockedError, ConnectError
from gripproxy.http1.head import ResponseHead
from gripproxy.routes import Target
from tests.support.certs import Authority, Pair, server_context

T = TypeVar("T")
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


async def soon(awaited: Awaitable[T]) -> T:
    async with asyncio.timeout(5):
        return await awaited


class Peer:
    """The backend's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, data: bytes = EMPTY) -> None:
        """Wait for a request, and send `data`."""
        assert await soon(self.reader.readexactly(len(REQUEST))) == REQUEST
        self.writer.write(data)

    async def closed(self) -> bool:
        """Wait until nothing more comes, and tell whether nothing came."""
        try:
            return await soon(self.reader.read()) == b""
        except ConnectionError:
            return True


class Backend:
    """A listening socket; `accept` gives its connections one by one."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []
        self.port = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, **options: Any) -> "Backend":
        self._server = await asyncio.start_server(self._connected, host, port, **options)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._all.append(peer)
        self._peers.put_nowait(peer)

    async def accept(self) -> Peer:
        return await soon(self._peers.get())

    @property
    def count(self) -> int:
        """How many connections were made so far."""
        return len(self._all)

    def target(self, **options: Any) -> Target:
        return Target(options.pop("host", "127.0.0.1"), self.port, **options)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for peer in self._all:
            peer.writer.transport.abort()


class Asker:
    """Wants a connection, and then one response."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.connection: asyncio.Future[BackendConnection] = loop.create_future()
        self.response: asyncio.Future[int] = loop.create_future()

    def on_connected(self, connection: BackendConnection) -> None:
        self.connection.set_result(connection)

    def on_unconnected(self, error: BackendError) -> None:
        self.connection.set_exception(error)

    def on_response(self, head: ResponseHead, content: bytes, finished: bool) -> None:
        assert finished
        self.response.set_result(head.code)

    def on_content(self, content: bytes, finished: bool) -> None:
        raise AssertionError("no response of these has a body")

    def on_failed(self, error: BackendError, retriable: bool) -> None:
        self.response.set_exception(error)

    def on_upload_blocked(self) -> None:
        raise AssertionError("no request of these has a body")

    def on_upload_ready(self) -> None:
        raise AssertionError("no request of these has a body")

    async def ask(self) -> int:
        """Send the request as soon as there is a connection, and wait for the response."""
        connection = await soon(self.connection)
        connection.send(self, b"GET", REQUEST, complete=True)
        return await soon(self.response)


class Loop:
    """The running loop, whose time can be skipped, and on which some addresses do not answer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.ahead = 0.0  # seconds that were skipped
        self.silent: set[str] = set()
        self.tried: list[str] = []
        self.may_connect = asyncio.Event()
        self.may_connect.set()
        self.is_connecting = asyncio.Event()
        self.failed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._loop.time() + self.ahead

    async def create_connection(self, factory: Any, host: str, *rest: Any, **options: Any) -> Any:
        self.tried.append(host)
        self.is_connecting.set()
        await self.may_connect.wait()
        if host in self.silent:
            await self._loop.create_future()
        try:
            return await self._loop.create_connection(factory, host, *rest, **options)
        except OSError:
            self.failed.set()
            raise


class Clock(Deadlines):
    """Deadlines that come when the test says so."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(cast(asyncio.AbstractEventLoop, loop))
        self._test_loop = loop
        self._all: dict[Timed, None] = {}

    def set(self, timed: Timed, at: float) -> None:
        timed.deadline = at
        self._all[timed] = None

    def clear(self, timed: Timed) -> None:
        timed.deadline = NEVER
        self._all.pop(timed, None)

    def pass_over(self, seconds: float) -> None:
        """As if so much time had passed."""
        self._test_loop.ahead += seconds
        now = self._test_loop.time()
        for timed in list(self._all):
            if timed.deadline <= now:
                timed.deadline = NEVER
                del self._all[timed]
                timed.expired(now)


class Names:
    """A resolver that knows what the test tells it."""

    answers: dict[str, list[str]]

    def __init__(self, loop: asyncio.AbstractEventLoop, ttl: float) -> None:
        self.answers = {}

    async def addresses(self, host: str) -> list[str]:
        try:
            return self.answers[host]
        except KeyError:
            raise ConnectError(f"cannot resolve {host}") from None

    async def close(self) -> None:
        """Nothing is under way."""


class Stage:
    def __init__(self) -> None:
        self.loop = Loop()
        self.clock = Clock(self.loop)
        self.backend = Backend()
        self.pools: list[Pool] = []

    def pool(self, **limits: Any) -> Pool:
        pool = Pool(cast(asyncio.AbstractEventLoop, self.loop), self.clock, Limits(**limits))
        self.pools.append(pool)
        return pool

    def want(
        self,
        pool: Pool,
        target: Target | None = None,
        *,
        tls_name: str | None = None,
        fresh: bool = False,
    ) -> Asker:
        """Somebody who wants a connection; those that are free are had at once."""
        asker = Asker()
        connection = pool.acquire(target or self.backend.target(), tls_name, asker, fresh=fresh)
        if connection is not None:
            asker.on_connected(connection)
        return asker

    async def use(self, pool: Pool) -> BackendConnection:
        """A connection that was used once, and is idle."""
        asker = self.want(pool)
        peer = await self.backend.accept() if not asker.connection.done() else None
        assert peer is not None
        asking = asyncio.ensure_future(asker.ask())
        await peer.answer()
        assert await asking == 200
        return asker.connection.result()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.backend.start()
    yield stage
    for pool in stage.pools:
        await pool.close()
    await stage.backend.stop()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> type[Names]:
    monkeypatch.setattr(pool_module, "Resolver", Names)
    return Names


def knows(pool: Pool, *addresses: str) -> None:
    resolver = pool._resolver
    assert isinstance(resolver, Names)
    resolver.answers["a.example"] = list(addresses)


# -- making and reusing --------------------------------------------------------------------------


async def test_a_connection_is_made_where_none_is_free(stage: Stage) -> None:
    asker = stage.want(stage.pool())
    assert not asker.connection.done()
    asking = asyncio.ensure_future(asker.ask())
    await (await stage.backend.accept()).answer()
    assert await asking == 200


async def test_a_connection_that_is_free_is_used_again_at_once(stage: Stage) -> None:
    pool = stage.pool()
    connection = await stage.use(pool)
    asker = stage.want(pool)
    assert asker.connection.result() is connection
    assert stage.backend.count == 1


async def test_a_connection_in_use_is_not_shared(stage: Stage) -> None:
    pool = stage.pool()
    first, second = stage.want(pool), stage.want(pool)
    assert await soon(first.connection) is not await soon(second.connection)


async def test_the_connection_used_last_is_used_first(stage: Stage) -> None:
    pool = stage.pool()
    askers = [stage.want(pool) for _ in range(2)]
    peers = [await stage.backend.accept() for _ in range(2)]
    for asker in askers:
        (await soon(asker.connection)).send(asker, b"GET", REQUEST, complete=True)
    for peer in peers:
        await peer.answer()
        await asyncio.wait([asker.response for asker in askers], return_when="FIRST_COMPLETED")
    for asker in askers:
        await soon(asker.response)
    last = stage.want(pool).connection.result()
    assert last in [asker.connection.result() for asker in askers]
    assert stage.want(pool).connection.result() is not last


async def test_targets_do_not_share_connections(stage: Stage) -> None:
    pool = stage.pool()
    await stage.use(pool)
    other = await Backend().start()
    try:
        asker = stage.want(pool, other.target())
        await soon(asker.connection)
        assert (stage.backend.count, other.count) == (1, 1)
    finally:
        await other.stop()


@pytest.mark.parametrize("option", [{"insecure": True}, {"client_cert": Path("x")}])
async def test_the_same_place_reached_otherwise_is_another(
    stage: Stage, option: dict[str, Any]
) -> None:
    pool = stage.pool()
    await stage.use(pool)
    asker = stage.want(pool, stage.backend.target(**option))
    assert not asker.connection.done()
    await soon(asker.connection)


async def test_a_fresh_connection_is_made_although_one_is_free(stage: Stage) -> None:
    pool = stage.pool()
    connection = await stage.use(pool)
    asker = stage.want(pool, fresh=True)
    assert await soon(asker.connection) is not connection
    assert stage.want(pool).connection.result() is connection


async def test_a_connection_that_becomes_free_is_not_fresh(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    used = await stage.use(pool)
    busy = stage.want(pool).connection.result()
    fresh, other = stage.want(pool, fresh=True), stage.want(pool)
    assert busy is used
    pool.release(used)
    assert await soon(other.connection) is used
    assert not fresh.connection.done()
    pool.release(used)
    assert not (await soon(fresh.connection)).used
    assert stage.backend.count == 2


async def test_a_connection_that_the_backend_closed_is_not_used_again(stage: Stage) -> None:
    pool = stage.pool()
    asker = stage.want(pool)
    peer = await stage.backend.accept()
    asking = asyncio.ensure_future(asker.ask())
    await peer.answer(LAST)
    await asking
    assert await peer.closed()
    assert not stage.want(pool).connection.done()
    await stage.backend.accept()


async def test_a_connection_that_is_closing_is_passed_over(stage: Stage) -> None:
    pool = stage.pool()
    connection = await stage.use(pool)
    connection.transport.abort()
    asker = stage.want(pool)
    assert not asker.connection.done()
    assert await soon(asker.connection) is not connection


async def test_a_connection_that_was_idle_for_long_is_closed(stage: Stage) -> None:
    pool = stage.pool(idle_timeout=55.0)
    asker = stage.want(pool)
    peer = await stage.backend.accept()
    asking = asyncio.ensure_future(asker.ask())
    await peer.answer()
    await asking
    stage.clock.pass_over(54.0)
    assert not asker.connection.result().transport.is_closing()
    stage.clock.pass_over(2.0)
    assert await peer.closed()
    assert not stage.want(pool).connection.done()


async def test_a_connection_that_is_used_again_is_not_idle(stage: Stage) -> None:
    pool = stage.pool(idle_timeout=55.0)
    connection = await stage.use(pool)
    stage.want(pool)
    stage.clock.pass_over(56.0)
    assert not connection.transport.is_closing()


async def test_so_many_idle_connections_are_kept_and_no_more(stage: Stage) -> None:
    pool = stage.pool(idle_max=1)
    askers = [stage.want(pool) for _ in range(2)]
    for asker in askers:
        (await soon(asker.connection)).send(asker, b"GET", REQUEST, complete=True)
    for _ in askers:
        await (await stage.backend.accept()).answer()
    for asker in askers:
        await soon(asker.response)
    closing = [asker.connection.result().transport.is_closing() for asker in askers]
    assert sorted(closing) == [False, True]


# -- the cap of a target, and who waits for it ---------------------------------------------------


async def test_at_the_cap_a_request_waits_for_a_connection_to_become_free(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    first, second, third = (stage.want(pool) for _ in range(3))
    peer = await stage.backend.accept()
    for asker in (first, second, third):
        asking = asyncio.ensure_future(asker.ask())
        await peer.answer()
        assert await asking == 200
    assert stage.backend.count == 1


async def test_those_who_wait_are_served_in_their_order(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    first, second, third = (stage.want(pool) for _ in range(3))
    peer = await stage.backend.accept()
    asking = asyncio.ensure_future(first.ask())
    await peer.answer()
    await asking
    assert second.connection.done()
    assert not third.connection.done()


async def test_a_connection_that_is_lost_makes_room_for_one_who_waits(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    first, second = stage.want(pool), stage.want(pool)
    await stage.backend.accept()
    (await soon(first.connection)).abandon()
    await soon(second.connection)
    assert stage.backend.count == 2


async def test_the_cap_is_of_each_host_and_port(stage: Stage) -> None:
    """Or a client that may choose the certificate's name could have any number of connections."""
    pool = stage.pool(connections_max=1)
    first = await soon(stage.want(pool).connection)
    other = stage.want(pool, stage.backend.target(insecure=True))
    assert not other.connection.done()
    pool.release(first)  # nobody waits for this kind, so it makes room for the other
    await soon(other.connection)


async def test_an_idle_connection_makes_room_for_another_kind(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    pool.release(await soon(stage.want(pool).connection))
    await soon(stage.want(pool, stage.backend.target(insecure=True)).connection)


async def test_idle_connections_make_room_for_all_who_wait(stage: Stage) -> None:
    pool = stage.pool(connections_max=2)
    idle = [stage.want(pool), stage.want(pool)]
    for waiter in idle:
        await soon(waiter.connection)
    for waiter in idle:
        pool.release(waiter.connection.result())
    others = [stage.want(pool, stage.backend.target(insecure=True)) for _ in range(2)]
    for other in others:
        await soon(other.connection)


async def test_a_kind_that_nobody_wants_any_more_is_forgotten(stage: Stage) -> None:
    pool = stage.pool(connections_max=1, waiting_timeout=10.0)
    await soon(stage.want(pool).connection)
    gone, late = (
        stage.want(pool, stage.backend.target(insecure=True)),
        stage.want(pool, stage.backend.target(untrusted=True)),
    )
    pool.cancel(gone)
    stage.clock.pass_over(11.0)
    assert isinstance(late.connection.exception(), ConnectError)
    assert len(pool._origins) == 1


async def test_idle_connections_of_all_kinds_count_together(stage: Stage) -> None:
    pool = stage.pool(idle_max=1)
    kept = await soon(stage.want(pool).connection)
    surplus = await soon(stage.want(pool, stage.backend.target(insecure=True)).connection)
    pool.release(kept)
    pool.release(surplus)
    assert surplus.transport.is_closing() and not kept.transport.is_closing()


async def test_those_who_wait_too_long_are_told(stage: Stage) -> None:
    pool = stage.pool(connections_max=1, waiting_timeout=10.0)
    first, second = stage.want(pool), stage.want(pool)
    await soon(first.connection)
    stage.clock.pass_over(9.0)
    assert not second.connection.done()
    stage.clock.pass_over(1.5)
    with pytest.raises(ConnectError, match="no connection became free within 10 s"):
        second.connection.result()
    assert stage.backend.count == 1


async def test_one_who_began_to_wait_later_is_told_later(stage: Stage) -> None:
    pool = stage.pool(connections_max=1, waiting_timeout=10.0)
    first, second = stage.want(pool), stage.want(pool)
    await soon(first.connection)
    stage.clock.pass_over(6.0)
    third = stage.want(pool)
    stage.clock.pass_over(5.0)
    assert isinstance(second.connection.exception(), ConnectError)
    assert not third.connection.done()
    stage.clock.pass_over(6.0)
    assert isinstance(third.connection.exception(), ConnectError)


async def test_those_for_whom_a_connection_is_being_made_are_not_told(stage: Stage) -> None:
    pool = stage.pool(connections_max=1, waiting_timeout=10.0, connect_timeout=60.0)
    stage.loop.may_connect.clear()
    first, second = stage.want(pool), stage.want(pool)
    stage.clock.pass_over(11.0)
    assert sorted([first.connection.done(), second.connection.done()]) == [False, True]
    stage.loop.may_connect.set()
    await soon(asyncio.wait([first.connection, second.connection]))
    outcomes = [asker.connection.exception() for asker in (first, second)]
    assert sum(outcome is None for outcome in outcomes) == 1
    assert stage.backend.count == 1


async def test_so_many_may_wait_and_no_more(stage: Stage) -> None:
    pool = stage.pool(connections_max=1, waiting_max=2)
    first = stage.want(pool)
    await soon(first.connection)
    for _ in range(2):
        stage.want(pool)
    with pytest.raises(ConnectError, match="2 requests wait for a connection already"):
        stage.want(pool)


async def test_one_who_waits_no_longer_is_passed_over(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    first, second, third = (stage.want(pool) for _ in range(3))
    peer = await stage.backend.accept()
    pool.cancel(second)
    asking = asyncio.ensure_future(first.ask())
    await peer.answer()
    await asking
    assert third.connection.done()
    assert not second.connection.done()


async def test_a_connection_whose_asker_left_meanwhile_is_kept_for_others(stage: Stage) -> None:
    pool = stage.pool()
    stage.loop.may_connect.clear()
    asker = stage.want(pool)
    pool.cancel(asker)
    stage.loop.may_connect.set()
    await stage.backend.accept()
    later = stage.want(pool)
    await soon(later.connection)
    assert stage.backend.count == 1
    assert not asker.connection.done()


async def test_an_attempt_whose_asker_left_meanwhile_may_fail_unheard(
    stage: Stage, names: type[Names]
) -> None:
    pool = stage.pool(connections_max=1)
    knows(pool, "127.0.0.2")
    target = stage.backend.target(host="a.example")
    asker = stage.want(pool, target)
    await stage.loop.is_connecting.wait()
    pool.cancel(asker)
    await soon(stage.loop.failed.wait())
    assert not asker.connection.done()
    with pytest.raises(ConnectError):
        await soon(stage.want(pool, target).connection)


async def test_one_who_does_not_wait_may_be_passed_over_too(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    stage.want(pool)
    second = stage.want(pool)
    pool.cancel(Asker())
    assert not second.connection.done()


# -- addresses -----------------------------------------------------------------------------------


async def test_every_address_of_a_name_is_tried(stage: Stage, names: type[Names]) -> None:
    pool = stage.pool()
    knows(pool, "127.0.0.3", "127.0.0.2", "127.0.0.1")
    asker = stage.want(pool, stage.backend.target(host="a.example"))
    await soon(asker.connection)
    assert stage.loop.tried == ["127.0.0.3", "127.0.0.2", "127.0.0.1"]


async def test_an_address_that_does_not_answer_is_left_after_its_time(
    stage: Stage, names: type[Names]
) -> None:
    pool = stage.pool(connect_timeout=0.02)
    stage.loop.silent = {"127.0.0.2", "127.0.0.3"}
    knows(pool, "127.0.0.2", "127.0.0.1")
    await soon(stage.want(pool, stage.backend.target(host="a.example")).connection)
    knows(pool, "127.0.0.2", "127.0.0.3")
    with pytest.raises(ConnectError) as caught:
        await soon(stage.want(pool, stage.backend.target(host="a.example"), fresh=True).connection)
    assert str(caught.value) == (
        "127.0.0.2: no answer within 0.02 s; 127.0.0.3: no answer within 0.02 s"
    )


async def test_where_nobody_listens_the_error_names_every_address(
    stage: Stage, names: type[Names]
) -> None:
    pool = stage.pool()
    knows(pool, "127.0.0.3", "127.0.0.2")
    asker = stage.want(pool, stage.backend.target(host="a.example"))
    with pytest.raises(ConnectError, match=r"127\.0\.0\.3: .*; 127\.0\.0\.2: "):
        await soon(asker.connection)


@pytest.mark.parametrize("known", [True, False])
async def test_a_name_without_addresses_is_an_error(
    stage: Stage, names: type[Names], known: bool
) -> None:
    pool = stage.pool()
    if known:
        knows(pool)
    with pytest.raises(ConnectError, match=r"the name has no address|cannot resolve a\.example"):
        await soon(stage.want(pool, stage.backend.target(host="a.example")).connection)


async def test_each_who_waits_hears_of_a_failure_of_its_own(
    stage: Stage, names: type[Names]
) -> None:
    pool = stage.pool(connections_max=1)
    askers = [stage.want(pool, stage.backend.target(host="a.example")) for _ in range(3)]
    await soon(asyncio.wait([asker.connection for asker in askers]))
    assert all(isinstance(asker.connection.exception(), ConnectError) for asker in askers)


async def test_an_untrusted_target_is_not_reached_at_private_addresses(
    stage: Stage, names: type[Names]
) -> None:
    pool = stage.pool()
    knows(pool, "127.0.0.1", "10.0.0.1")
    asker = stage.want(pool, stage.backend.target(host="a.example", untrusted=True))
    with pytest.raises(BlockedError):
        await soon(asker.connection)
    assert stage.loop.tried == []


async def test_an_untrusted_target_is_reached_at_its_other_addresses(
    stage: Stage, names: type[Names], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "is_private", "127.0.0.2".__eq__)
    pool = stage.pool()
    knows(pool, "127.0.0.2", "127.0.0.1")
    asker = stage.want(pool, stage.backend.target(host="a.example", untrusted=True))
    await soon(asker.connection)
    assert stage.loop.tried == ["127.0.0.1"]


async def test_a_backend_that_closes_at_once_makes_nobody_wait(stage: Stage) -> None:
    class Curt(Loop):
        async def create_connection(self, *rest: Any, **options: Any) -> Any:
            transport, protocol = await super().create_connection(*rest, **options)
            lost = asyncio.Event()
            told = protocol.connection_lost

            def connection_lost(error: Exception | None) -> None:
                told(error)
                lost.set()

            # The loop runs on between the connection being made and the attempt hearing of it.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    BackendConnection, "connection_lost", lambda _, error: connection_lost(error)
                )
                transport.abort()
                await lost.wait()
            return transport, protocol

    stage.loop = Curt()
    pool = stage.pool(connections_max=1)
    askers = [stage.want(pool) for _ in range(2)]
    await soon(asyncio.wait([asker.connection for asker in askers]))
    for asker in askers:
        with pytest.raises(ConnectError, match="closed by the backend at once"):
            asker.connection.result()


async def test_the_time_of_a_response_runs_in_the_pool_s_deadlines(stage: Stage) -> None:
    pool = stage.pool(response_timeout=30.0)
    asker = stage.want(pool)
    asking = asyncio.ensure_future(asker.ask())
    peer = await stage.backend.accept()
    assert await soon(peer.reader.readexactly(len(REQUEST)))
    stage.clock.pass_over(31.0)
    with pytest.raises(BackendError):
        await asking
    assert await peer.closed()


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("test CA")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("a.example")


@pytest.fixture
async def secure(
    stage: Stage,
    authority: Authority,
    pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Stage]:
    """A stage whose backend speaks TLS, and whose system trusts its authority alone."""
    (tmp_path / "ca.pem").write_bytes(authority.cert)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    await stage.backend.stop()
    stage.backend = await Backend().start(ssl=server_context(pair))
    yield stage


async def test_a_certificate_must_carry_the_name(secure: Stage) -> None:
    pool, target = secure.pool(), secure.backend.target(ssl=True)
    await soon(secure.want(pool, target, tls_name="a.example").connection)
    with pytest.raises(ConnectError, match="certificate"):
        await soon(secure.want(pool, target, tls_name="b.example").connection)


async def test_an_insecure_target_may_carry_any(secure: Stage) -> None:
    target = secure.backend.target(ssl=True, insecure=True)
    await soon(secure.want(secure.pool(), target, tls_name="b.example").connection)


async def test_a_certificate_of_an_unknown_authority_is_refused(
    secure: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "other.pem").write_bytes(Authority("another").cert)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    target = secure.backend.target(ssl=True)
    with pytest.raises(ConnectError):
        await soon(secure.want(secure.pool(), target, tls_name="a.example").connection)


async def test_a_client_certificate_is_shown(
    secure: Stage, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    client = authority.issue("client")
    (tmp_path / "c.crt").write_bytes(client.cert)
    (tmp_path / "c.key").write_bytes(client.key)
    await secure.backend.stop()
    secure.backend = await Backend().start(ssl=server_context(pair, client_ca=authority))
    target = secure.backend.target(
        ssl=True, client_cert=tmp_path / "c.crt", client_key=tmp_path / "c.key"
    )
    await soon(secure.want(secure.pool(), target, tls_name="a.example").connection)
    shown = (await secure.backend.accept()).writer.get_extra_info("peercert")
    assert shown["serialNumber"].lower() == f"{client.serial:x}".rjust(
        len(shown["serialNumber"]), "0"
    )


async def test_a_client_certificate_that_cannot_be_read_is_an_error(
    secure: Stage, tmp_path: Path
) -> None:
    target = secure.backend.target(ssl=True, client_cert=tmp_path / "missing.crt")
    pool = secure.pool()
    for _ in range(2):
        with pytest.raises(ConnectError, match=r"client certificate .*missing\.crt: "):
            await soon(secure.want(pool, target, tls_name="a.example").connection)


# The name may be the client's Host, which only has to look like a host.
@pytest.mark.parametrize("name", [".a", "a..b", "a." + "b" * 64, "-", "%41", "..."])
async def test_a_name_that_no_certificate_can_have_is_an_error(secure: Stage, name: str) -> None:
    pool, target = secure.pool(connections_max=1), secure.backend.target(ssl=True)
    for _ in range(2):
        with pytest.raises(ConnectError):
            async with asyncio.timeout(1):
                await secure.want(pool, target, tls_name=name).connection


# -- connections of one's own --------------------------------------------------------------------


class Own(asyncio.Protocol):
    """A protocol that is connected by itself, and what became of that."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[asyncio.Transport] = loop.create_future()
        self.failures: list[BackendError] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.set_result(cast(asyncio.Transport, transport))


async def test_a_protocol_can_be_connected_by_itself(stage: Stage) -> None:
    own = Own()
    await soon(stage.pool().open(stage.backend.target(), None, own, own.failures.append))
    (await soon(own.made)).write(REQUEST)
    await (await stage.backend.accept()).answer()
    assert own.failures == []
    own.made.result().abort()


async def test_such_a_connection_takes_no_place_in_the_pool(stage: Stage) -> None:
    pool = stage.pool(connections_max=1)
    owners = [Own() for _ in range(2)]
    for own in owners:
        await soon(pool.open(stage.backend.target(), None, own, own.failures.append))
    connection = await soon(stage.want(pool).connection)
    assert stage.want(pool).connection.done() is False
    assert connection.transport not in [own.made.result() for own in owners]
    for own in owners:
        own.made.result().abort()


async def test_whoever_asked_is_told_why_there_is_no_such_connection(
    stage: Stage, names: type[Names]
) -> None:
    pool, own = stage.pool(), Own()
    knows(pool, "127.0.0.2", "127.0.0.3")
    target = stage.backend.target(host="a.example")
    await soon(pool.open(target, None, own, own.failures.append))
    private = stage.backend.target(host="a.example", untrusted=True)
    await soon(pool.open(private, None, own, own.failures.append))
    assert [type(error) for error in own.failures] == [ConnectError, BlockedError]
    assert not own.made.done()


async def test_such_an_attempt_can_be_called_off_and_nobody_hears(stage: Stage) -> None:
    pool, own = stage.pool(), Own()
    stage.loop.may_connect.clear()
    task = pool.open(stage.backend.target(), None, own, own.failures.append)
    await soon(stage.loop.is_connecting.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    stage.loop.may_connect.set()
    assert (own.failures, own.made.done(), stage.backend.count) == ([], False, 0)


async def test_the_certificate_of_such_a_connection_is_checked_too(secure: Stage) -> None:
    pool, own = secure.pool(), Own()
    target = secure.backend.target(ssl=True)
    await soon(pool.open(target, "b.example", own, own.failures.append))
    assert [type(error) for error in own.failures] == [ConnectError]
    await soon(pool.open(target, "a.example", own, own.failures.append))
    assert len(own.failures) == 1
    (await soon(own.made)).abort()


# -- the end -------------------------------------------------------------------------------------


async def test_the_end_stops_attempts_of_one_s_own(stage: Stage) -> None:
    pool, own = stage.pool(), Own()
    stage.loop.may_connect.clear()
    task = pool.open(stage.backend.target(), None, own, own.failures.append)
    await soon(stage.loop.is_connecting.wait())
    await pool.close()
    assert task.cancelled()
    assert own.failures == []


async def test_the_end_closes_connections_and_stops_attempts(stage: Stage) -> None:
    pool = stage.pool()
    idle = await stage.use(pool)
    stage.loop.may_connect.clear()
    asker = stage.want(pool, fresh=True)
    await pool.close()
    assert idle.transport.is_closing()
    assert not asker.connection.done()
    assert stage.backend.count == 1


async def test_after_the_end_a_connection_that_becomes_free_is_not_kept(stage: Stage) -> None:
    pool = stage.pool()
    asker = stage.want(pool)
    peer = await stage.backend.accept()
    asking = asyncio.ensure_future(asker.ask())
    await soon(peer.reader.readexactly(len(REQUEST)))
    await pool.close()
    peer.writer.write(EMPTY)
    assert await asking == 200
    assert await peer.closed()
