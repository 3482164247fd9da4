"""Control messages that send later: keep-alive, send-delayed, flush-delayed."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from tests.flow import links
from tests.flow.holding import Stage, base64_text, fresh, line, open_stage
from tests.flow.links import Link, detach, link, subscribe
from tests.flow.sockets import message
from tests.support.websocket import BINARY, CLOSE, PING, PONG, TEXT, Event, control

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

SLACK = 0.9  # seconds that a busy machine may be late


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage(*links.routes(), "*") as it:
        yield it


@pytest.fixture(params=links.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of backend."""
    return str(request.param)


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def keep_alive(content: str | None = None, timeout: Any = 1, **fields: Any) -> Event:
    if content is not None:
        fields["content"] = content
    return control(type="keep-alive", timeout=timeout, **fields)


def send_delayed(content: str | None = None, **fields: Any) -> Event:
    if content is not None:
        fields["content"] = content
    return control(type="send-delayed", **fields)


FLUSH = control(type="flush-delayed")


@contextlib.asynccontextmanager
async def several(
    stage: Stage, cases: Mapping[str, list[Event]]
) -> AsyncIterator[dict[str, list[Link]]]:
    """For each case a link of each kind, whose backend begins with these messages."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            name: [
                await stack.enter_async_context(link(stage, kind, *told)) for kind in links.KINDS
            ]
            for name, told in cases.items()
        }


async def wait_a_second(stage: Stage) -> None:
    """Wait for a second of the proxy's time: every keep-alive with a timeout of 1 has fired."""
    async with link(stage, "relay", send_delayed("tick", timeout=1)) as clock:
        assert await clock.client.read_text() == "tick"


async def expect_end(it: Link) -> None:
    """The client must have read all that came."""
    await it.tell(Event("TEXT", b"m:end"))
    assert await it.client.read_text() == "end"


# -- content ---------------------------------------------------------------------------------


def ignored() -> dict[str, Event]:
    """What is no keep-alive, and does not end one either."""
    return {
        "negative": keep_alive("K", -1),
        "null": keep_alive("K", None),
        "list": keep_alive("K", [1]),
        "content is a number": control(type="keep-alive", content=1, timeout=1),
        "content is null": control(type="keep-alive", content=None, timeout=1),
        "base64 is a number": keep_alive("K", content_bin=1),
        "unknown type": keep_alive("K", message_type="close"),
        "upper case": keep_alive("K", message_type="TEXT"),
        "type is a number": keep_alive("K", message_type=1),
        "mode is a number": keep_alive("K", mode=1),
        "type is a number, without content": keep_alive(message_type=1),
        "mode is a number, without content": keep_alive(mode=1),
    }


@shared
async def test_a_keep_alive_comes_again_and_again(stage: Stage) -> None:
    """A timeout of one second fires after at most that, each time anew."""
    raw = base64_text(b"\0\xff")
    cases: dict[str, tuple[list[Event], int, bytes]] = {
        "text": ([keep_alive("grüße")], TEXT, "grüße".encode()),
        "as text": ([keep_alive("K", message_type="text")], TEXT, b"K"),
        "binary": ([keep_alive("K", message_type="binary")], BINARY, b"K"),
        "ping": ([keep_alive("K", message_type="ping")], PING, b"K"),
        "pong": ([keep_alive("K", message_type="pong")], PONG, b"K"),
        "empty text": ([keep_alive("")], TEXT, b""),
        "empty ping": ([keep_alive("", message_type="ping")], PING, b""),
        "base64 is text too": ([keep_alive(content_bin=base64_text(b"K"))], TEXT, b"K"),
        "base64": ([keep_alive(content_bin=raw, message_type="binary")], BINARY, b"\0\xff"),
        "base64 wins": ([keep_alive("x", content_bin=raw, message_type="ping")], PING, b"\0\xff"),
        "base64 with junk": ([keep_alive(content_bin="!!YW!Jj")], TEXT, b"abc"),
        "no prefix": ([keep_alive("m:c:{}")], TEXT, b"m:c:{}"),
        "rounded": ([keep_alive("K", 0.6)], TEXT, b"K"),
        "a string": ([keep_alive("K", "1")], TEXT, b"K"),
        "any mode": ([keep_alive("K", mode="unheard-of")], TEXT, b"K"),
        "interval": ([keep_alive("K", mode="interval")], TEXT, b"K"),
        "detached": ([keep_alive("K"), detach()], TEXT, b"K"),
        "replaced": ([keep_alive("old"), keep_alive("new")], TEXT, b"new"),
        "not replaced": ([keep_alive("old"), *ignored().values()], TEXT, b"old"),
        "taken up again": ([keep_alive("old"), keep_alive(), keep_alive("new")], TEXT, b"new"),
    }
    async with several(stage, {name: case[0] for name, case in cases.items()}) as its:
        for name, (_, opcode, content) in cases.items():
            for it in its[name]:
                for _ in range(2):
                    frame = await it.client.read_frame()
                    assert (frame.opcode, frame.payload, frame.fin) == (opcode, content, True), name


@shared
async def test_what_is_no_keep_alive_sends_nothing(stage: Stage) -> None:
    """The default of a timeout is 55 seconds."""
    cases = {
        "nothing": [keep_alive()],
        "a type alone": [keep_alive(message_type="ping")],
        "off": [keep_alive("old"), keep_alive()],
        "off, though with a type": [keep_alive("old"), keep_alive(message_type="ping")],
        "off, though with a timeout": [keep_alive("old"), keep_alive(timeout=-1)],
        "later": [keep_alive("old"), keep_alive("new", 50)],
        "no timeout": [control(type="keep-alive", content="K")],
        "zero": [keep_alive("K", 0)],
        "rounded to zero": [keep_alive("K", 0.4)],
        "not a number": [keep_alive("K", "soon")],
        **{name: [event] for name, event in ignored().items()},
    }
    async with several(stage, cases) as its:
        await wait_a_second(stage)
        for it in itertools.chain(*its.values()):
            await expect_end(it)


async def test_a_ping_that_fits_no_frame_is_no_keep_alive(stage: Stage) -> None:
    """Pushpin 1.36 drops the client when its time has come."""
    opening = [
        keep_alive("old"),
        keep_alive("x" * 126, message_type="ping"),
        send_delayed("x" * 126, message_type="pong"),
        FLUSH,
    ]
    async with several(stage, {"": opening}) as its:
        for it in its[""]:
            assert await it.client.read_text() == "old"


# -- time ------------------------------------------------------------------------------------


@shared
async def test_a_wait_is_the_timeout_less_up_to_a_second(stage: Stage) -> None:
    """Each one is drawn anew, so that clients do not stay in step."""

    async def wait(it: Link) -> float:
        await it.tell(keep_alive("K", 2))
        start = time.monotonic()
        assert await it.client.read_text() == "K"
        return time.monotonic() - start

    async with several(stage, {str(n): [] for n in range(4)}) as its:
        waits = await asyncio.gather(*map(wait, itertools.chain(*its.values())))
    assert all(1 - 0.1 < seconds < 2 + SLACK for seconds in waits), waits
    assert max(waits) - min(waits) > 0.15, waits


@shared
async def test_what_the_client_gets_puts_off_the_keep_alive_in_idle_mode_only(
    stage: Stage,
) -> None:
    """With a timeout of 2 nothing fires before 1.001 s; something comes every 0.3 s.

    What the client sends puts off nothing, nor what is published and not sent.
    """
    c = fresh()
    putting_off = [f"{c} idle {what}" for what in ("published", "relayed", "pinged", "delayed")]
    firing = [f"{c} interval published", f"{c} idle sent", f"{c} idle unsent"]

    async def until_kept_alive(it: Link) -> int:
        """How many other frames came before."""
        count = 0
        while (await it.client.read_frame()).payload != b"K":
            count += 1
        return count

    async with several(stage, {name: [subscribe(name)] for name in putting_off + firing}) as its:
        everyone = [(name, it) for name, links_of_it in its.items() for it in links_of_it]
        await asyncio.gather(
            *[it.tell(keep_alive("K", 2, mode=name.split()[1])) for name, it in everyone]
        )
        fired = {
            name: asyncio.gather(*[until_kept_alive(it) for it in its[name]]) for name in firing
        }
        while not all(future.done() for future in fired.values()):
            await asyncio.gather(*[poke(it, name) for name, it in everyone])
            await asyncio.wait(fired.values(), timeout=0.3)
        counts = [future.result() for future in fired.values()]
        assert min(counts[0]) > 0 and counts[1:] == [[0, 0], [0, 0]]
        for name in putting_off:
            for it in its[name]:
                await it.tell(Event("TEXT", b"m:end"))
                seen: list[bytes] = []
                while not seen or seen[-1] != b"end":
                    seen.append((await it.client.read_frame()).payload)
                assert len(seen) > 1 and b"K" not in seen, name


async def poke(it: Link, name: str) -> None:
    """Send a frame to the client, or let it send one; `name` is its channel and says what."""
    match name.split()[2]:
        case "published":
            await it.stage.proxy.publish(message(name, "."))
        case "unsent":
            await it.stage.proxy.publish(line(name, "."), message(name, action="hint"))
        case "relayed":
            await it.tell(Event("TEXT", b"m:."))
        case "pinged":
            await it.tell(Event("PING", b"."))
        case "delayed":
            await it.tell(send_delayed("."), FLUSH)
        case "sent":
            await it.client.send_text(".")
            await it.client.send(PING)


@shared
async def test_nothing_is_sent_after_a_close(stage: Stage) -> None:
    c = fresh()
    told = [subscribe(c), keep_alive("K"), send_delayed("D")]
    async with several(stage, {"by backend": told[1:], "by publisher": told}) as its:
        for it in its["by publisher"]:
            await it.settle()
        await stage.proxy.publish(message(c, action="close", code=4000))
        for it in its["by backend"]:
            await it.tell(Event("CLOSE", b"\x0f\xa0"))
        await wait_a_second(stage)
        for it in itertools.chain(*its.values()):
            while (frame := await it.client.read_frame()).payload in (b"K", b"D"):
                pass  # it came before
            assert (frame.opcode, frame.payload) == (CLOSE, b"\x0f\xa0")
            await it.client.send_close(4000)
            await it.client.wait_dropped()


# -- delayed messages ------------------------------------------------------------------------


@shared
async def test_a_delayed_message_comes_once_after_its_time(stage: Stage) -> None:
    cases = {
        "text": (send_delayed("D"), 1, TEXT, b"D"),
        "ping": (send_delayed("D", message_type="ping", timeout=1), 1, PING, b"D"),
        "base64": (send_delayed(content_bin="AP8=", message_type="binary"), 1, BINARY, b"\0\xff"),
        "base64 is text too": (send_delayed(content_bin="YWI="), 1, TEXT, b"ab"),
        "zero": (send_delayed("D", timeout=0), 1, TEXT, b"D"),
        "two seconds": (send_delayed("D", timeout=2), 2, TEXT, b"D"),
        "no content": (send_delayed(), 1, TEXT, b""),
        "no content, but a timeout": (send_delayed(timeout=2), 1, TEXT, b""),
        "empty pong": (send_delayed(message_type="pong"), 1, PONG, b""),
        "no mode": (send_delayed("D", mode="interval"), 1, TEXT, b"D"),
    }

    async def come(it: Link, opening: Event, opcode: int, content: bytes) -> float:
        start = time.monotonic()
        await it.tell(opening)
        frame = await it.client.read_frame()
        assert (frame.opcode, frame.payload) == (opcode, content)
        return time.monotonic() - start

    async with several(stage, {name: [] for name in cases}) as its:
        everyone = [(name, it) for name in cases for it in its[name]]
        coming = [come(it, cases[name][0], *cases[name][2:]) for name, it in everyone]
        times = await asyncio.gather(*coming)
        for (name, it), seconds in zip(everyone, times, strict=True):
            assert cases[name][1] - 0.1 < seconds < cases[name][1] + SLACK, name
            await expect_end(it)


@shared
async def test_a_second_delayed_message_sends_the_first_at_once(stage: Stage, kind: str) -> None:
    async with link(stage, kind, send_delayed("1", timeout=50)) as it:
        await it.tell(send_delayed("2", timeout=50))
        assert await it.client.read_text() == "1"
        await it.tell(send_delayed("3", timeout=50), FLUSH)
        assert [await it.client.read_text() for _ in range(2)] == ["2", "3"]
        await it.tell(FLUSH)
        await it.settle()
        await expect_end(it)


@shared
async def test_a_delayed_message_that_does_not_parse_flushes_nothing(
    stage: Stage, kind: str
) -> None:
    bad = [
        send_delayed("x", timeout=-1),
        send_delayed("x", timeout=[]),
        send_delayed("x", message_type="close"),
        control(type="send-delayed", content=1),
    ]
    async with link(stage, kind, FLUSH, send_delayed("D", timeout=50), *bad) as it:
        await it.settle()
        await expect_end(it)
        await it.tell(FLUSH)
        assert await it.client.read_text() == "D"
