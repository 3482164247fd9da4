"""The ZeroMQ inputs over real sockets, with a publisher that only keeps what it gets."""

import asyncio
import json
import logging
import re
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import uvloop
import zmq

from gripproxy.control.zmq import BATCH_BYTES, BATCH_MESSAGES, PullInput, SubInput
from gripproxy.errors import ConfigError
from gripproxy.grip.item import Item
from tests.flow.fake_publisher import FakePublisher

ANY_PORT = "tcp://127.0.0.1:*"
Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


def frame(channel: str | None, content: str = "x") -> bytes:
    named = {} if channel is None else {"channel": channel}
    return b"J" + json.dumps({**named, "formats": {"http-stream": {"content": content}}}).encode()


def tnet(channel: str) -> bytes:
    """The same as a TNetString."""

    def sized(data: bytes, kind: bytes) -> bytes:
        return b"%d:%b%b" % (len(data), data, kind)

    stream = sized(sized(b"content", b",") + sized(b"x", b","), b"}")
    formats = sized(sized(b"http-stream", b",") + stream, b"}")
    name = sized(b"channel", b",") + sized(channel.encode(), b",")
    return sized(name + sized(b"formats", b",") + formats, b"}")


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


class Peers:
    """The other ends, open until the test is over. What takes one of them more than 10 s fails."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: list[Socket] = []

    def open(self, kind: int) -> Socket:
        peer = self._context.socket(kind)
        peer.setsockopt(zmq.SNDTIMEO, 10_000)
        peer.setsockopt(zmq.RCVTIMEO, 10_000)
        self._open.append(peer)
        return peer

    def connect(self, kind: int, endpoint: str) -> Socket:
        peer = self.open(kind)
        peer.connect(endpoint)
        return peer

    def close(self) -> None:
        for peer in self._open:
            peer.close(linger=0)


@pytest.fixture
def peers(context: Context) -> Iterator[Peers]:
    peers = Peers(context)
    yield peers
    peers.close()


@pytest.fixture
async def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
async def pull(context: Context, publisher: FakePublisher) -> AsyncIterator[PullInput]:
    pull = PullInput(context, ANY_PORT, publisher)
    pull.start()
    yield pull
    pull.close()


async def notice(peer: Socket) -> bytes:
    """The next subscription or its end, as an XPUB socket sees it."""
    return await asyncio.to_thread(peer.recv)


# PULL.


async def test_what_is_pushed_is_published_in_order(
    peers: Peers, pull: PullInput, publisher: FakePublisher
) -> None:
    push = peers.connect(zmq.PUSH, pull.endpoint)
    names = [f"c{number}" for number in range(3 * BATCH_MESSAGES + 1)]
    for name in names:
        push.send(frame(name))
    await publisher.until(lambda: len(publisher.items) == len(names))
    assert publisher.channels == names
    assert (pull.received, pull.invalid) == (len(names), 0)


@pytest.mark.parametrize("payload", [frame("c"), b"T" + tnet("c"), tnet("c")])
async def test_an_item_may_be_json_or_a_tnetstring(
    peers: Peers, pull: PullInput, publisher: FakePublisher, payload: bytes
) -> None:
    peers.connect(zmq.PUSH, pull.endpoint).send(payload)
    await publisher.until(lambda: publisher.channels == ["c"])


async def test_what_was_pushed_before_the_start_is_published(
    context: Context, peers: Peers, publisher: FakePublisher
) -> None:
    pull = PullInput(context, ANY_PORT, publisher)
    push = peers.connect(zmq.PUSH, pull.endpoint)
    push.send(frame("c"))
    # Its arrival changes the state of the descriptor before anybody watches that.
    assert pull._socket.poll(10_000)
    pull.start()
    await publisher.until(lambda: publisher.channels == ["c"])
    pull.close()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"no item"], ""),
        ([frame("a"), frame("b")], "message has 2 frames, not 1"),
        ([b""], ""),
        ([b"J[]"], "publish item object is not an object"),
    ],
)
async def test_an_invalid_message_is_skipped_counted_and_logged(
    peers: Peers,
    pull: PullInput,
    publisher: FakePublisher,
    caplog: pytest.LogCaptureFixture,
    frames: list[bytes],
    reason: str,
) -> None:
    push = peers.connect(zmq.PUSH, pull.endpoint)
    push.send_multipart(frames)
    push.send(frame("good"))
    await publisher.until(lambda: publisher.channels == ["good"])
    assert (pull.received, pull.invalid) == (2, 1)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("gripproxy.control", logging.WARNING)
    assert record.getMessage().startswith(f"push_in_spec: invalid message skipped: {reason}")


async def test_many_invalid_messages_give_one_warning_and_then_a_count(
    peers: Peers,
    pull: PullInput,
    publisher: FakePublisher,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push = peers.connect(zmq.PUSH, pull.endpoint)
    for _ in range(50):
        push.send(b"no item")
    push.send(frame("good"))
    await publisher.until(lambda: publisher.channels == ["good"])
    assert pull.invalid == 50
    assert len(caplog.messages) == 1
    monkeypatch.setattr(pull, "_next_warning", 0.0)  # as if time had passed
    push.send(b"no item")
    push.send(frame("last"))
    await publisher.until(lambda: publisher.channels == ["good", "last"])
    assert len(caplog.messages) == 2
    assert "invalid message skipped, and 49 before it: " in caplog.messages[1]


async def test_nothing_is_taken_while_the_queue_is_full_and_nothing_lost(
    peers: Peers, pull: PullInput, publisher: FakePublisher
) -> None:
    publisher.full_from = 10
    push = peers.connect(zmq.PUSH, pull.endpoint)
    names = [f"c{number}" for number in range(5 * BATCH_MESSAGES)]
    for name in names:
        push.send(frame(name))
    await publisher.until(lambda: bool(publisher.waiting))
    # One batch may go over the bound; FakePublisher refuses any that begins beyond it.
    assert 10 <= len(publisher.items) <= 9 + BATCH_MESSAGES
    publisher.make_room()
    await publisher.until(lambda: len(publisher.items) == len(names))
    assert publisher.channels == names


async def test_an_input_that_starts_while_the_queue_is_full_waits(
    context: Context, peers: Peers, publisher: FakePublisher
) -> None:
    publisher.full_from = 0
    pull = PullInput(context, ANY_PORT, publisher)
    pull.start()
    peers.connect(zmq.PUSH, pull.endpoint).send(frame("c"))
    await publisher.until(lambda: bool(publisher.waiting))
    assert publisher.items == []
    publisher.make_room()
    await publisher.until(lambda: publisher.channels == ["c"])
    pull.close()


async def test_room_that_comes_after_the_end_does_not_matter(
    context: Context, peers: Peers, publisher: FakePublisher
) -> None:
    publisher.full_from = 0
    pull = PullInput(context, ANY_PORT, publisher)
    pull.start()
    peers.connect(zmq.PUSH, pull.endpoint).send(frame("c"))
    await publisher.until(lambda: bool(publisher.waiting))
    pull.close()
    publisher.make_room()
    assert publisher.items == []


async def test_the_loop_turns_between_batches(
    peers: Peers, pull: PullInput, publisher: FakePublisher
) -> None:
    sizes: list[int] = []
    publish = publisher.publish

    def note(items: Sequence[Item]) -> None:
        sizes.append(len(items))
        publish(items)

    publisher.publish = note  # type: ignore[method-assign]
    push = peers.connect(zmq.PUSH, pull.endpoint)
    large = "x" * (BATCH_BYTES // 4)
    for _ in range(20):
        push.send(frame("large", large))
    for _ in range(5 * BATCH_MESSAGES):
        push.send(frame("small"))
    await publisher.until(lambda: len(publisher.items) == 20 + 5 * BATCH_MESSAGES)
    assert max(sizes) <= BATCH_MESSAGES
    assert max(sizes[: publisher.channels.index("small") // 4]) <= 4


async def test_a_message_over_the_bound_ends_its_sender_and_nothing_else(
    context: Context, peers: Peers, publisher: FakePublisher
) -> None:
    pull = PullInput(context, ANY_PORT, publisher, message_max=10_000)
    pull.start()
    peers.connect(zmq.PUSH, pull.endpoint).send(frame("large", "x" * 10_000))
    peers.connect(zmq.PUSH, pull.endpoint).send(frame("c"))
    await publisher.until(lambda: publisher.channels == ["c"])
    pull.close()


# SUB.


@pytest.fixture
async def sub(context: Context, publisher: FakePublisher) -> AsyncIterator[SubInput]:
    sub = SubInput(context, [ANY_PORT, "tcp://127.0.0.1:1"], publisher)
    sub.start()
    yield sub
    sub.close()


async def test_publishers_see_the_first_subscription_and_the_last_end(
    peers: Peers, sub: SubInput
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("fruit")
    assert await notice(xpub) == b"\x01fruit"
    sub.unsubscribe("fruit")
    assert await notice(xpub) == b"\x00fruit"


async def test_a_publisher_that_comes_late_learns_the_subscriptions(
    peers: Peers, sub: SubInput
) -> None:
    sub.subscribe("fruit")
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    assert await notice(xpub) == b"\x01fruit"


async def test_what_is_published_to_a_subscribed_channel_arrives(
    peers: Peers, sub: SubInput, publisher: FakePublisher
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("fruit")
    await notice(xpub)
    xpub.send_multipart([b"other", frame(None)])
    xpub.send_multipart([b"fruit", frame(None)])
    await publisher.until(lambda: publisher.channels == ["fruit"])
    assert sub.received == 1


async def test_the_topic_overrides_the_channel_of_the_item(
    peers: Peers, sub: SubInput, publisher: FakePublisher
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("fruit")
    await notice(xpub)
    xpub.send_multipart([b"fruit", frame("other")])
    await publisher.until(lambda: publisher.channels == ["fruit"])


async def test_a_longer_topic_is_published_as_it_is(
    peers: Peers, sub: SubInput, publisher: FakePublisher
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("fruit")
    await notice(xpub)
    xpub.send_multipart([b"fruit-salad", frame(None)])
    await publisher.until(lambda: publisher.channels == ["fruit-salad"])


async def test_an_empty_topic_leaves_the_channel_to_the_item(
    peers: Peers, sub: SubInput, publisher: FakePublisher
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("")
    await notice(xpub)
    xpub.send_multipart([b"", frame("fruit")])
    await publisher.until(lambda: publisher.channels == ["fruit"])


async def test_a_channel_need_not_be_utf8(
    peers: Peers, sub: SubInput, publisher: FakePublisher
) -> None:
    channel = b"\xff\x00\xc3".decode(errors="surrogateescape")
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe(channel)
    assert await notice(xpub) == b"\x01\xff\x00\xc3"
    xpub.send_multipart([b"\xff\x00\xc3", frame(None)])
    await publisher.until(lambda: publisher.channels == [channel])


@pytest.mark.parametrize("frames", [[b"fruit"], [b"fruit", frame(None), b"more"]])
async def test_a_message_without_exactly_two_frames_is_invalid(
    peers: Peers, sub: SubInput, publisher: FakePublisher, frames: list[bytes]
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("fruit")
    await notice(xpub)
    xpub.send_multipart(frames)
    xpub.send_multipart([b"fruit", frame(None)])
    await publisher.until(lambda: publisher.channels == ["fruit"])
    assert (sub.received, sub.invalid) == (2, 1)


@pytest.mark.parametrize("call", [SubInput.subscribe, SubInput.unsubscribe])
async def test_subscribing_does_not_hide_a_message_that_has_come(
    peers: Peers, sub: SubInput, publisher: FakePublisher, call: Callable[[SubInput, str], None]
) -> None:
    xpub = peers.connect(zmq.XPUB, sub.endpoint)
    sub.subscribe("fruit")
    await notice(xpub)
    xpub.send_multipart([b"fruit", frame(None)])
    # Looking at the socket takes the edge from its descriptor, as libzmq may do in any call.
    assert sub._socket.poll(10_000)
    call(sub, "other")
    await publisher.until(lambda: publisher.channels == ["fruit"])


async def test_subscriptions_that_end_after_the_input_do_not_matter(
    context: Context, publisher: FakePublisher
) -> None:
    sub = SubInput(context, [ANY_PORT], publisher)
    sub.start()
    sub.subscribe("fruit")
    sub.close()
    sub.unsubscribe("fruit")
    sub.close()


async def test_connecting_reaches_every_spec(
    context: Context, peers: Peers, publisher: FakePublisher
) -> None:
    xpubs: list[Socket] = []
    for _ in range(2):
        xpub = peers.open(zmq.XPUB)
        xpub.bind(ANY_PORT)
        xpubs.append(xpub)
    specs = [xpub.getsockopt_string(zmq.LAST_ENDPOINT) for xpub in xpubs]
    sub = SubInput(context, specs, publisher, connect=True)
    sub.start()
    sub.subscribe("fruit")
    for xpub in xpubs:
        assert await notice(xpub) == b"\x01fruit"
        xpub.send_multipart([b"fruit", frame(None)])
    await publisher.until(lambda: publisher.channels == ["fruit", "fruit"])
    sub.close()


# Specs.


@pytest.mark.parametrize("mode", [0o600, 0o777])
async def test_the_mode_of_an_ipc_socket_is_the_one_configured(
    context: Context, peers: Peers, publisher: FakePublisher, tmp_path: Path, mode: int
) -> None:
    pull = PullInput(context, f"ipc://{tmp_path}/pull", publisher, ipc_file_mode=mode)
    sub = SubInput(context, [f"ipc://{tmp_path}/sub"], publisher, ipc_file_mode=mode)
    for name in ("pull", "sub"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode
    pull.start()
    peers.connect(zmq.PUSH, f"ipc://{tmp_path}/pull").send(frame("c"))
    await publisher.until(lambda: publisher.channels == ["c"])
    pull.close()
    sub.close()


async def test_an_abstract_ipc_address_has_no_mode(
    context: Context, publisher: FakePublisher, tmp_path: Path
) -> None:
    PullInput(context, f"ipc://@{tmp_path}", publisher, ipc_file_mode=0o600).close()


async def test_an_address_in_use_is_an_error_of_the_configuration(
    context: Context, pull: PullInput, publisher: FakePublisher
) -> None:
    expected = f"push_in_spec: cannot bind to {pull.endpoint}: Address already in use"
    with pytest.raises(ConfigError, match=re.escape(expected)):
        PullInput(context, pull.endpoint, publisher)


async def test_a_spec_that_is_none_is_an_error_of_the_configuration(
    context: Context, publisher: FakePublisher
) -> None:
    with pytest.raises(ConfigError, match="push_in_sub_specs: cannot bind to nonsense: "):
        SubInput(context, ["nonsense"], publisher)
    with pytest.raises(ConfigError, match="push_in_sub_specs: cannot connect to nonsense: "):
        SubInput(context, ["nonsense"], publisher, connect=True)
    with pytest.raises(ConfigError, match="push_in_spec: cannot bind to ipc:///no/such/place: "):
        PullInput(context, "ipc:///no/such/place", publisher)


# On the loop that the proxy runs on.


def test_it_works_on_uvloop_as_on_asyncio(context: Context, peers: Peers) -> None:
    async def scenario() -> None:
        publisher = FakePublisher()
        publisher.full_from = 250
        pull = PullInput(context, ANY_PORT, publisher)
        pull.start()
        push = peers.connect(zmq.PUSH, pull.endpoint)
        for number in range(2000):
            push.send(frame(str(number)))
        await publisher.until(lambda: bool(publisher.waiting))
        publisher.make_room()
        await publisher.until(lambda: len(publisher.items) == 2000)
        assert publisher.channels == [str(number) for number in range(2000)]
        pull.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
