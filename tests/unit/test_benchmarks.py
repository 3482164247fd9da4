"""The benchmarks' own parts: what they read, print and start. Nothing is measured here."""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from benchmarks import backend, machine, report
from benchmarks.errors import Failure
from benchmarks.load import Load, Requests, wrk_report
from benchmarks.load import report as loadgen_report
from benchmarks.message import SIZE, Hold, grip_item, message
from benchmarks.processes import Tree, time_limit
from benchmarks.report import Result
from benchmarks.scenarios import HEADER_BYTES, browser_headers

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# CI installs a compiler: there a test without one is to fail, not to pass unseen.
needs_cc = pytest.mark.skipif(
    machine.program("cc") is None and os.environ.get("CI") != "true", reason="cc is not installed"
)

# -- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("hold", Hold)
def test_an_item_carries_the_message_unchanged(hold: Hold) -> None:
    content = message()
    item = json.loads(grip_item(hold, content))
    ((values),) = item["formats"].values()
    assert len(content) == SIZE
    assert [text.encode() for text in values.values()] == [content]


def test_the_browser_headers_have_the_size_that_the_table_names() -> None:
    headers = browser_headers()
    assert sum(len(f"{name}: {value}\r\n") for name, value in headers) == HEADER_BYTES


# -- what the load generators say ----------------------------------------------------------------


def test_a_report_of_loadgen_is_read_by_name() -> None:
    line = "GOT count=3 p50_ms=0.125 closed=1\n"
    assert loadgen_report("GOT", line) == {"count": 3, "p50_ms": 0.125, "closed": 1}


@pytest.mark.parametrize("line", ["", "READY connected=1", "GOT count", "GOT count=x", "GOT a=b=c"])
def test_anything_else_from_loadgen_is_a_failure(line: str) -> None:
    with pytest.raises(Failure, match="loadgen said"):
        loadgen_report("GOT", line)


WRK = """\
Running 1s test @ http://127.0.0.1:7999/plain
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.33ms  400.00us   9.00ms   90.00%
  Latency Distribution
     50%    1.30ms
     99%  {p99}
  24823 requests in {time}, 3.31MB read
{more}Requests/sec:  24567.00
"""


@pytest.mark.parametrize(
    ("p99", "p99_ms"), [("500.00us", 0.5), ("2.13ms", 2.13), ("1.02s", 1020.0)]
)
def test_wrk_says_the_latency_in_several_units(p99: str, p99_ms: float) -> None:
    text = WRK.format(p99=p99, time="1.10s", more="")
    assert wrk_report(text) == Requests(24823, 1.1, p99_ms, bad=0, errors=0)


def test_wrong_answers_and_broken_connections_of_wrk_are_counted() -> None:
    more = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 7\n"
    text = WRK.format(p99="2.00ms", time="900.00ms", more=more)
    assert wrk_report(text) == Requests(24823, 0.9, 2.0, bad=7, errors=10)


def test_wrk_that_measured_nothing_is_a_failure() -> None:
    with pytest.raises(Failure, match="unable to connect"):
        wrk_report("unable to connect to 127.0.0.1:7999 Connection refused\n")


# -- what is printed -----------------------------------------------------------------------------


def result(**turns: list[dict[str, float]]) -> Result:
    return Result("burst-one", "3 messages", dict(turns))


def turn(cpu: float, delivered: float = 100) -> dict[str, float]:
    return {"cpu_us_per_delivery": cpu, "delivered_pct": delivered}


def test_a_table_has_the_medians_and_why_a_target_is_not_in_it() -> None:
    found = result(gripproxy=[turn(9), turn(6.5), turn(5)], pushpin=[turn(1234.5, 15.62)], nchan=[])
    found.failed["nchan"] = "nchan did not start"
    assert report.table(found).splitlines() == [
        "burst-one: 3 messages",
        "           cpu_us_per_delivery  delivered_pct",
        "gripproxy                 6.50            100",
        "pushpin                  1,234           15.6",
        "nchan: nchan did not start",
    ]


def test_a_table_without_figures_is_its_title_and_the_reasons() -> None:
    found = result(gripproxy=[])
    found.failed["gripproxy"] = "gripproxy did not start"
    assert report.table(found) == "burst-one: 3 messages\ngripproxy: gripproxy did not start"


def test_markdown_has_a_row_for_each_figure_and_a_column_for_each_target() -> None:
    found = [
        result(gripproxy=[turn(6.5)], pushpin=[turn(13)]),
        Result("proxy", "GET", {"gripproxy": [{"per_s": 20000}], "nchan": [{"per_s": 60000}]}),
    ]
    assert report.markdown(found).splitlines() == [
        "|  |  | gripproxy | pushpin | nchan |",
        "| --- | --- | ---: | ---: | ---: |",
        "| **burst-one**: 3 messages | CPU per delivery (µs) | 6.50 | 13 (2.0) |  |",
        "|  | delivered (%) | 100 | 100 |  |",
        "| **proxy**: GET | per second | 20,000 |  | 60,000 (0.33) |",
    ]


def test_a_ratio_above_one_means_that_gripproxy_is_ahead() -> None:
    found = result(
        gripproxy=[{"cpu_us_each": 10, "per_s": 200, "bad": 0}],
        nchan=[{"cpu_us_each": 5, "per_s": 100, "bad": 3}],
    )
    assert list(report.ratios(found)) == [
        "RATIO burst-one cpu_us_each nchan/gripproxy 0.50",
        "RATIO burst-one per_s nchan/gripproxy 2.00",
    ]


def test_there_is_no_ratio_to_what_gripproxy_did_not_measure() -> None:
    assert list(report.ratios(result(gripproxy=[], pushpin=[turn(13)]))) == []


def test_one_bad_turn_of_gripproxy_is_a_fault_and_those_of_others_are_not() -> None:
    found = result(gripproxy=[turn(6), turn(6, 99.5), turn(6)], pushpin=[turn(13, 15)])
    assert list(report.faults(found)) == [
        "FAULT burst-one gripproxy delivered_pct is 99.5, should be 100"
    ]


def test_messages_that_come_twice_are_a_fault() -> None:
    assert list(report.faults(result(gripproxy=[turn(6, 100.1)]))) == [
        "FAULT burst-one gripproxy delivered_pct is 100.1, should be 100"
    ]


def test_a_gripproxy_that_did_not_run_is_a_fault() -> None:
    found = result(gripproxy=[])
    found.failed["gripproxy"] = "gripproxy did not start"
    assert list(report.faults(found)) == ["FAULT burst-one gripproxy gripproxy did not start"]


# -- processes -----------------------------------------------------------------------------------


def test_a_tree_ends_with_the_children_that_its_first_process_leaves_behind(tmp_path: Path) -> None:
    script = "sleep 60 & echo started; wait"
    with Tree(["/bin/sh", "-c", script], tmp_path / "log", piped=True) as tree:
        assert tree.line() == "started\n"
        running = tree.processes()
        assert len(running) == 2
        assert tree.pss_kib() > 0
    for process in running:
        assert not is_running(process.pid)


def is_running(pid: int) -> bool:
    """Whether there is such a process: a zombie that its parent has not met yet has ended."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_cpu_time_of_a_tree_is_that_of_its_children_too(tmp_path: Path) -> None:
    busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read _ <&3"
    script = f"exec 3<&0; ({busy}) & wait"
    with Tree(["/bin/sh", "-c", script], tmp_path / "log", piped=True) as tree:
        assert tree.line() == "done\n"
        assert tree.cpu_seconds() > 0.001


def test_the_failure_of_a_process_says_how_it_ended_and_its_last_words(tmp_path: Path) -> None:
    with Tree(
        ["/bin/sh", "-c", "echo one >&2; echo two >&2; exit 3"], tmp_path / "log", piped=True
    ) as tree:
        with pytest.raises(Failure, match="sh said nothing"):
            tree.line()
        tree.stop()
        assert str(tree.failure("it broke")) == "it broke (it ended with status 3): two"


def test_what_takes_too_long_is_ended_by_a_failure() -> None:
    readable, writable = os.pipe()
    try:
        with pytest.raises(Failure, match=r"0\.01 s"), time_limit(0.01):
            os.read(readable, 1)  # nothing ever comes
    finally:
        os.close(readable)
        os.close(writable)


# -- loadgen -------------------------------------------------------------------------------------


@contextmanager
def held(
    directory: Path, hold: Hold, head: bytes, serve: Callable[[socket.socket], None]
) -> Iterator[tuple[Load, socket.socket]]:
    """loadgen with one connection, to which a server sends `head` and then does `serve`."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        listener.settimeout(10)

        def accept() -> socket.socket:
            connection, _ = listener.accept()
            connection.settimeout(10)
            assert connection.recv(4096).startswith(b"GET %s HTTP/1.1\r\n" % hold.path.encode())
            connection.sendall(head)
            return connection

        accepted = pool.submit(accept)
        try:
            with Load(listener.getsockname()[1], hold, 1, directory) as load:
                assert load.connected == 1
                served = pool.submit(serve, accepted.result(10))
                yield load, accepted.result()
            served.result(10)
        finally:
            accepted.result(10).close()


def held_stream(
    directory: Path, first: bytes
) -> AbstractContextManager[tuple[Load, socket.socket]]:
    """loadgen with one stream; its response begins with the head and `first`, in one piece."""
    return held(directory, Hold.STREAM, HEAD + first, lambda _: None)


@needs_cc
def test_loadgen_joins_a_message_that_comes_in_pieces(tmp_path: Path) -> None:
    content = message()
    with held_stream(tmp_path, first=content[:10]) as (load, connection):
        connection.sendall(content[10:] + message())
        arrivals = load.arrivals(2)
    assert arrivals.messages == 2
    assert 0 < arrivals.p50_ms <= arrivals.last_ms < 10_000
    assert arrivals.closed == 0


@needs_cc
def test_loadgen_counts_a_message_that_comes_twice(tmp_path: Path) -> None:
    content = message()
    with held_stream(tmp_path, first=b"") as (load, connection):
        connection.sendall(content * 2)
        assert load.arrivals(1).messages == 2


@needs_cc
def test_loadgen_notices_that_the_server_closed(tmp_path: Path) -> None:
    with held_stream(tmp_path, first=message()) as (load, connection):
        connection.close()
        arrivals = load.arrivals(1)
    assert (arrivals.messages, arrivals.closed) == (1, 1)


@needs_cc
def test_a_load_that_nobody_accepts_is_a_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Failure, match=r"no client could connect.*Connection refused"):
        Load(port, Hold.STREAM, 1, tmp_path)


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def unmasked(frame: bytes) -> bytes:
    """The payload of a client's small frame."""
    mask, payload = frame[2:6], frame[6:]
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


@needs_cc
def test_loadgen_sends_the_next_message_when_the_last_one_is_back(tmp_path: Path) -> None:
    frames: list[bytes] = []

    def echo(connection: socket.socket) -> None:
        while frame := connection.recv(4096):
            frames.append(frame)
            connection.sendall(bytes([frame[0], frame[1] & 0x7F]) + unmasked(frame))

    with held(tmp_path, Hold.WEBSOCKET, SWITCH, echo) as (load, _):
        echoes = load.echoes(0.05)
    assert echoes.sent == echoes.arrivals.messages == len(frames) > 1
    assert echoes.seconds >= 0.05
    assert {frame[:2] for frame in frames} == {b"\x81\x95"}
    assert len({frame[2:6] for frame in frames}) == len(frames), "a fresh mask for each frame"
    assert all(len(unmasked(frame)) == 21 for frame in frames)


@needs_cc
def test_loadgen_counts_a_message_that_does_not_come_back(tmp_path: Path) -> None:
    with held(tmp_path, Hold.WEBSOCKET, SWITCH, lambda c: c.close()) as (load, _):
        echoes = load.echoes(0.05)
    assert (echoes.arrivals.messages, echoes.arrivals.closed) == (0, 1)


@needs_cc
def test_loadgen_takes_a_handshake_that_is_refused_for_a_failure(tmp_path: Path) -> None:
    with (
        pytest.raises(Failure, match=r"no client could connect.*refused: HTTP/1\.1 200 OK"),
        held(tmp_path, Hold.WEBSOCKET, HEAD, lambda _: None),
    ):
        pass


# -- the backend ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000])
async def test_the_backend_accepts_websockets_and_echoes(size: int) -> None:
    def post(events: bytes) -> bytes:
        return b"POST /ws HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(events), events)

    loop = asyncio.get_running_loop()
    async with await loop.create_server(backend.Connection, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        requests = (
            post(b"OPEN\r\n")
            + post(b"TEXT 3\r\none\r\nBINARY\r\nPING A\r\n0123456789\r\n")
            + post(b"CLOSE 2\r\n\x03\xe8\r\n")
            + post(b"DISCONNECT\r\n")
        )
        for i in range(0, len(requests), size):
            writer.write(requests[i : i + size])
            await asyncio.sleep(0)
        answers = [await response_body(reader) for _ in range(4)]
        writer.close()
        await writer.wait_closed()
    control = b'c:{"type":"subscribe","channel":"bench"}'
    assert answers == [
        b"OPEN\r\nTEXT %x\r\n%s\r\n" % (len(control), control),
        b"TEXT 5\r\nm:one\r\nBINARY 2\r\nm:\r\nPONG a\r\n0123456789\r\n",
        b"CLOSE 2\r\n\x03\xe8\r\n",
        b"",
    ]


async def response_body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"\r\nContent-Type: application/websocket-events\r\n" in head
    assert b"\r\nSec-WebSocket-Extensions: grip\r\n" in head
    return await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
