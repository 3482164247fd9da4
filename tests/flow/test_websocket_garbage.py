"""Clients that send anything: each backend hears of one end, and nothing of them is left."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.flow.holding import Stage, open_stage
from tests.support.backend import Exchange
from tests.support.client import TIMEOUT, Truncated, connect
from tests.support.proxy import POLL_SECONDS
from tests.support.websocket import (
    CLOSE,
    GRIP,
    Event,
    Socket,
    accept,
    accept_socket,
    decode_events,
    encode_frame,
    events,
    handshake,
    upgraded,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

EACH = 200  # sockets of each kind
PATHS = ("/woh", "/ws", "/sock/websocket", "/sock/000/{}/websocket")
ENDS = {"CLOSE", "DISCONNECT"}

FRAME = st.builds(
    encode_frame,
    st.sampled_from([0, 1, 1, 2, 2, 3, 8, 9, 10, 11]),
    st.binary(max_size=200),
    fin=st.sampled_from([True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 0, 4, 2]),
    masked=st.sampled_from([True, True, True, False]),
)
MASKED = st.builds(
    encode_frame, st.sampled_from([1, 2, 8, 9, 10]), st.binary(), masked=st.just(True)
)
GARBAGE = st.one_of(
    st.binary(min_size=1, max_size=500),
    st.lists(MASKED | FRAME, min_size=1, max_size=8).map(b"".join),
    st.tuples(st.lists(MASKED, max_size=3).map(b"".join), st.binary(max_size=50)).map(b"".join),
)


def garbage(count: int) -> list[bytes]:
    """So many different kinds of it."""
    found: list[bytes] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(GARBAGE)
    def collect(data: bytes) -> None:
        found.append(data)

    collect()
    return found


class Backends:
    """Those of all the sockets: what they heard of ends, by connection."""

    def __init__(self, stage: Stage) -> None:
        self.ends: dict[str, list[str]] = defaultdict(list)
        stage.backend.on("/woh", self._answer)
        stage.backend.on("*", self._listen, stream=True)

    async def wait(self, count: int) -> None:
        """Wait until so many have heard of an end."""
        async with asyncio.timeout(TIMEOUT):
            while sum(map(bool, self.ends.values())) < count:
                await asyncio.sleep(POLL_SECONDS)

    def _answer(self, exchange: Exchange) -> bytes:
        got = decode_events(exchange.request.body)
        heard = self.ends[exchange.request.header("connection-id") or ""]
        heard += [kind for kind, _ in got if kind in ENDS]
        if Event("OPEN") in got:
            return accept()
        return events(*[event for event in got if event.type == "CLOSE"])

    async def _listen(self, exchange: Exchange) -> None:
        inner = await accept_socket(exchange, [GRIP])
        heard = self.ends[f"relay {exchange.request.connection}"]
        with contextlib.suppress(Truncated):
            while True:
                frame = await inner.read_frame()
                assert "close" not in heard, frame
                if frame.opcode == CLOSE:
                    heard.append("close")
                    await inner.send(CLOSE, frame.payload)
        heard[:] = ["lost"]
        exchange.close()


@contextlib.asynccontextmanager
async def sockets(stage: Stage, path: str, count: int) -> AsyncIterator[list[Socket]]:
    """Accepted clients."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for number in range(count):
            client = await stack.enter_async_context(connect(stage.proxy.port))
            await client.send(handshake(path.format(f"s{number}")))
            opened.append(await upgraded(client))
        yield opened


async def read_rest(client: Socket) -> None:
    with contextlib.suppress(ConnectionError):
        while await client.reader.read(65_536):
            pass


async def test_nothing_is_left_of_clients_that_send_garbage() -> None:
    conditions = [
        "*",
        "*,path_beg=/woh -> over_http",
        "*,sockjs=/sock,sockjs_as_path=/as",
    ]
    samples = garbage(EACH)
    assert len(set(samples)) > EACH / 2
    async with open_stage(*conditions, runner={"allow_compression": True}) as stage:
        backends = Backends(stage)
        for path in PATHS:
            async with sockets(stage, path, 1):
                pass
        await backends.wait(len(PATHS))
        stage.backend.close_connections()
        await stage.backend.wait_connections(0)
        files = stage.proxy.open_files()
        for path in PATHS:
            async with sockets(stage, path, EACH) as clients:
                for client, data in zip(clients, samples, strict=True):
                    client.writer.write(data)
                    client.writer.write_eof()
                async with asyncio.timeout(TIMEOUT):
                    await asyncio.gather(*map(read_rest, clients))
        await backends.wait(len(PATHS) * (EACH + 1))
        wrong = {who: ends for who, ends in backends.ends.items() if len(ends) != 1}
        assert not wrong
        stage.backend.close_connections()
        async with asyncio.timeout(TIMEOUT):
            while stage.proxy.open_files() > files:
                await asyncio.sleep(POLL_SECONDS)
