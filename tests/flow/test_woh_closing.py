"""WebSocket-over-HTTP: every way in which a connection ends, and what each side is told."""

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import Stage, fresh, open_stage
from tests.flow.sockets import DISCONNECT, OPEN, OVER_HTTP, message, over_http, text
from tests.support.backend import start_backend
from tests.support.client import connect
from tests.support.proxy import start_proxy
from tests.support.websocket import (
    CONT,
    TEXT,
    Event,
    WohBackend,
    accept,
    close_payload,
    control,
    events,
    handshake,
    open_socket,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared
BYE = Event("CLOSE", close_payload(4_000, b"bye"))
KEEP_ALIVE = {"Keep-Alive-Interval": "20"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*", OVER_HTTP) as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


# -- the client closes -----------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("sent", "answer", "got"),
    [
        (close_payload(1001, b"bye"), close_payload(4_001, b"ok"), (4_001, b"ok")),
        (close_payload(1001, b"bye"), close_payload(1001, b"bye"), (1001, b"bye")),
        (close_payload(1001, b"bye"), b"", (1000, b"")),
        (b"", b"", (1000, b"")),
        (b"", b"x", (1000, b"")),
        (close_payload(4_999), close_payload(3_000), (3_000, b"")),
    ],
    ids=["another", "the same", "none", "none at all", "one byte", "no reason"],
)
async def test_the_backend_answers_a_close(
    stage: Stage, sent: bytes, answer: bytes, got: tuple[int, bytes]
) -> None:
    async with over_http(stage) as (client, backend):
        closing = backend.hold()
        await client.send(8, sent)
        assert await backend.next_events() == [Event("CLOSE", sent or None)]
        assert await client.is_silent(0.1)
        closing.set_result(events(Event("CLOSE", answer or None)))
        assert await client.read_close() == got
        await client.wait_dropped()
        # both have heard of the end
        assert await backend.is_silent(0.1)


@shared
async def test_a_close_without_an_answer_drops_the_client(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(events())
        await client.send_close(1001)
        assert await backend.next_events() == [("CLOSE", close_payload(1001))]
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


@shared
async def test_with_keep_alive_a_close_waits_for_its_answer(stage: Stage) -> None:
    """It goes again at the interval, which is twenty seconds at least."""
    async with over_http(stage, accept(headers=KEEP_ALIVE)) as (client, backend):
        backend.answers.append(events())
        await client.send_close(1001)
        await backend.next()
        assert await client.is_silent(0.1)
        assert await backend.is_silent(0.1)


@shared
async def test_messages_still_come_with_the_answer_to_a_close(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(events(("TEXT", "m:last"), ("CLOSE", close_payload(1000))))
        await client.send_close(1000)
        await backend.next()
        assert await client.read_text() == "last"
        assert await client.read_close() == (1000, b"")


async def test_an_unfinished_message_is_discarded_by_a_close(stage: Stage) -> None:
    """Pushpin takes a close frame within a message for an error."""
    async with over_http(stage) as (client, backend):
        await client.send(TEXT, b"unfinished", fin=False)
        await client.send_close(1001)
        assert await backend.next_events() == [("CLOSE", close_payload(1001))]
        assert await client.read_close() == (1001, b"")


# -- the backend closes ----------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (close_payload(4_000, b"bye"), (4_000, b"bye")),
        (close_payload(1000), (1000, b"")),
        (b"", (1000, b"")),
        (b"x", (1000, b"")),
        (close_payload(3_000, b"x" * 123), (3_000, b"x" * 123)),
    ],
    ids=["reason", "code", "nothing", "one byte", "longest"],
)
async def test_a_backends_close_reaches_the_client(
    stage: Stage, sent: bytes, got: tuple[int, bytes]
) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(events(("TEXT", "m:last"), ("CLOSE", sent), ("TEXT", "m:no more")))
        await client.send_text("x")
        await backend.next()
        assert await client.read_text() == "last"
        assert await client.read_close() == got
        assert await client.is_silent(0.1)


@pytest.mark.parametrize("code", [0, 1, 999, 1005, 1006, 1015])
async def test_a_code_that_must_not_be_sent_is_1000(stage: Stage, code: int) -> None:
    """Client libraries say 0 for none, and Pushpin passes that on."""
    async with over_http(stage, accept(("CLOSE", close_payload(code, b"bye")))) as (client, _):
        assert await client.read_close() == (1000, b"bye")


async def test_a_reason_that_is_too_long_is_no_obstacle(stage: Stage) -> None:
    """Pushpin drops the client."""
    async with over_http(stage, accept(("CLOSE", close_payload(4_000, b"x" * 300)))) as (client, _):
        code, reason = await client.read_close()
        assert (code, reason) == (4_000, b"x" * len(reason))


@shared
async def test_the_clients_answer_reaches_the_backend(stage: Stage) -> None:
    async with over_http(stage, accept(BYE)) as (client, backend):
        assert await client.read_close() == (4_000, b"bye")
        assert await backend.is_silent(0.1)
        await client.send_close(4_001, b"ok")
        assert await backend.next_events() == [("CLOSE", close_payload(4_001, b"ok"))]
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


@shared
async def test_a_client_that_only_answers_is_let_go_at_once(stage: Stage) -> None:
    async with over_http(stage, accept(BYE)) as (client, backend):
        await client.read_close()
        answer = backend.hold()
        await client.send_close(4_000)
        await backend.next()
        await client.wait_dropped()
        answer.set_result(events())
        assert await backend.is_silent(0.1)


@shared
async def test_what_a_client_sends_before_its_answer_still_goes(stage: Stage) -> None:
    async with over_http(stage, accept(BYE)) as (client, backend):
        await client.read_close()
        await client.send_text("late")
        assert await backend.next_events() == [text("late")]
        await client.send_close(4_000)
        assert await backend.next_events() == [("CLOSE", close_payload(4_000))]
        await client.wait_dropped()


@shared
async def test_a_client_that_vanishes_instead_of_answering(stage: Stage) -> None:
    async with over_http(stage, accept(BYE)) as (client, backend):
        await client.read_close()
        client.abort()
        assert await backend.next_events() == DISCONNECT
        assert await backend.is_silent(0.1)


# -- the client is lost ----------------------------------------------------------------------


@shared
@pytest.mark.parametrize("how", ["reset", "end", "half"])
async def test_a_lost_client_is_told_to_the_backend(stage: Stage, how: str) -> None:
    async with over_http(stage) as (client, backend):
        if how == "reset":
            client.abort()
        elif how == "end":
            await client.close()
        else:
            client.writer.write_eof()
        assert await backend.next_events() == DISCONNECT
        assert await backend.is_silent(0.1)


@shared
async def test_a_protocol_error_is_told_as_a_loss(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        await client.send(CONT, b"of nothing")
        assert await backend.next_events() == DISCONNECT
        await client.reader.read()  # to its end, whether or not a close frame came


@shared
async def test_a_loss_waits_for_the_request_and_drops_what_is_queued(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        first = backend.hold()
        await client.send_text("first")
        await backend.next()
        await client.send_text("queued")
        assert await backend.is_silent(0.1)
        client.abort()
        assert await backend.is_silent(0.2)
        first.set_result(events(("TEXT", "m:nobody reads it")))
        assert await backend.next_events() == DISCONNECT
        assert await backend.is_silent(0.1)


@shared
async def test_a_loss_during_the_opening(stage: Stage) -> None:
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    opening = backend.hold()
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(backend.path))
        assert await backend.next_events() == OPEN
        client.abort()
        assert await backend.is_silent(0.2)
    opening.set_result(accept())
    assert await backend.next_events() == DISCONNECT


async def test_a_loss_during_the_opening_is_not_told_where_nothing_was_accepted(
    stage: Stage,
) -> None:
    """Under keep-alive Pushpin sends OPEN again and again."""
    backend = WohBackend(stage.backend, "/woh/" + fresh("p"))
    opening = backend.hold()
    async with connect(stage.proxy.port) as client:
        await client.send(handshake(backend.path))
        assert await backend.next_events() == OPEN
        client.abort()
        assert await backend.is_silent(0.2)
    opening.set_result(events(headers=KEEP_ALIVE))
    assert await backend.is_silent(0.2)


@shared
async def test_the_answer_to_a_disconnect_means_nothing(stage: Stage) -> None:
    async with over_http(stage) as (client, backend):
        backend.answers.append(events(("TEXT", "m:x"), "DISCONNECT", headers=KEEP_ALIVE))
        client.abort()
        assert await backend.next_events() == DISCONNECT
        assert await backend.is_silent(0.2)


@shared
@pytest.mark.parametrize("answered", [True, False])
async def test_a_client_lost_after_its_close(stage: Stage, answered: bool) -> None:
    async with over_http(stage) as (client, backend):
        closing = backend.hold()
        await client.send_close(1000)
        close = await backend.next_events()
        client.abort()
        assert await backend.is_silent(0.1)
        closing.set_result(events(*close) if answered else events())
        assert await backend.is_silent(0.2)


async def test_a_client_lost_while_its_close_is_unanswered(stage: Stage) -> None:
    """Pushpin 1.36 does not see it, and sends the CLOSE again."""
    async with over_http(stage, accept(headers=KEEP_ALIVE)) as (client, backend):
        backend.answers.append(events())
        await client.send_close(1000)
        await backend.next()
        client.abort()
        assert await backend.next_events() == DISCONNECT
        assert await backend.is_silent(0.1)


# -- others end it ---------------------------------------------------------------------------


@shared
async def test_a_published_close_reaches_both_sides(stage: Stage) -> None:
    c = fresh()
    opening = accept(control(type="subscribe", channel=c))
    async with over_http(stage, opening) as (client, backend):
        await stage.proxy.wait_subscribed(c)
        await stage.proxy.publish(message(c, action="close", code=4_000, reason="bye"))
        assert await backend.next_events() == [Event("CLOSE")]
        assert await client.read_close() == (4_000, b"bye")
        await client.send_close(4_000)
        await client.wait_dropped()
        assert await backend.is_silent(0.1)


@shared
async def test_a_detached_client_stays(stage: Stage) -> None:
    c = fresh()
    opening = accept(control(type="subscribe", channel=c), control(type="detach"))
    async with over_http(stage, opening) as (client, backend):
        assert await backend.next_events() == [Event("CLOSE")]
        await stage.proxy.wait_subscribed(c)
        await client.send_text("to nobody")
        await stage.proxy.publish(message(c, "still here"))
        assert await client.read_text() == "still here"
        await client.send_close(4_000)
        assert await client.read_close() == (1000, b"")
        assert await backend.is_silent(0.1)


@shared
async def test_a_stopping_proxy_tells_the_backend_nothing() -> None:
    async with (
        start_backend() as backend,
        start_proxy(f"* {backend.address},over_http") as proxy,
    ):
        woh = WohBackend(backend, "/" + fresh("p"))
        async with open_socket(proxy.port, woh.path) as client:
            assert await woh.next_events() == OPEN
            proxy.signal(signal.SIGTERM)
            await proxy.wait_exit()
            await client.reader.read()
            assert await woh.is_silent(0.1)
