"""`python -m tests.autobahn`: the Autobahn test suite through gripproxy to backends that echo.

Exit status: 0, 1 when a case failed, 2 when the suite could not be run.
"""

import argparse
import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks.backend import EVENTS_PATH, Connection
from tests.autobahn import suite
from tests.autobahn.suite import Case, Failure
from tests.support.proxy import start_proxy

# Everything but compression, and of that each kind of content and of parameters.
SHORT = (
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"),
    *("12.1.3", "12.2.5", "12.3.11", "12.4.18", "12.5.7"),
    *("13.1.1", "13.2.2", "13.3.3", "13.4.4", "13.5.5", "13.6.6", "13.7.7"),
)
BEHAVIORS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED")
RELAY = "/relay"
OVER_HTTP = EVENTS_PATH.decode()


class Setup(NamedTuple):
    """What stands between the suite and an echo."""

    name: str
    path: str
    compression: bool


SETUPS = [
    Setup("WebSocket backend", RELAY, False),
    Setup("WebSocket over HTTP", OVER_HTTP, False),
    Setup("WebSocket backend, compression", RELAY, True),
    Setup("WebSocket over HTTP, compression", OVER_HTTP, True),
]


async def main() -> int:
    """Run what the command line asks for; the exit status."""
    options = _parser().parse_args()
    cases = options.cases or (list(SHORT) if options.short else ["*"])
    setups = [setup for setup in SETUPS if setup.compression or not options.short]
    try:
        directory = suite.install()
        ends = await _run(directory, setups, cases)
    except Failure as failure:
        print(f"the Autobahn test suite could not be run: {failure}", file=sys.stderr)
        return 2
    failed = {
        setup: [case for case in found if _failed(setup, case)] for setup, found in ends.items()
    }
    print(_table(ends, failed))
    for setup, found in failed.items():
        for case in found:
            print(
                f"{setup.name}, {case.id}: {case.behavior} ({case.result}),",
                f"closing {case.behavior_close} ({case.result_close})",
            )
    return 1 if any(failed.values()) else 0


async def _run(
    directory: Path, setups: Sequence[Setup], cases: Sequence[str]
) -> dict[Setup, list[Case]]:
    """Run the cases in each of `setups`, two at a time."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        echo = await stack.enter_async_context(
            serve(_echo, "127.0.0.1", 0, max_size=None, ping_interval=None)
        )
        over_http = await stack.enter_async_context(
            await loop.create_server(Connection, "127.0.0.1", 0)
        )
        routes = [
            f"*,path_beg={RELAY} 127.0.0.1:{echo.sockets[0].getsockname()[1]}",
            f"*,path_beg={OVER_HTTP} 127.0.0.1:{over_http.sockets[0].getsockname()[1]},over_http",
        ]
        ends: dict[Setup, list[Case]] = {}
        for compression in dict.fromkeys(setup.compression for setup in setups):
            print("With compression ..." if compression else "Without compression ...", flush=True)
            together = [setup for setup in setups if setup.compression == compression]
            runner = {"allow_compression": compression, "log_level": 1}
            async with start_proxy(routes, runner=runner) as proxy:
                urls = [f"ws://127.0.0.1:{proxy.port}{setup.path}" for setup in together]
                found = await asyncio.gather(*(suite.run(directory, url, cases) for url in urls))
            ends |= zip(together, found, strict=True)
    return ends


async def _echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


def _failed(setup: Setup, case: Case) -> bool:
    allowed = BEHAVIORS if not setup.compression else BEHAVIORS[:-1]
    return case.behavior not in allowed or case.behavior_close not in BEHAVIORS


def _table(ends: dict[Setup, list[Case]], failed: dict[Setup, list[Case]]) -> str:
    rows = [["", "cases", *BEHAVIORS, "failed"]]
    for setup, found in ends.items():
        counts = Counter(case.behavior for case in found)
        figures = [len(found), *(counts[behavior] for behavior in BEHAVIORS), len(failed[setup])]
        rows.append([setup.name, *map(str, figures)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="such as 5.19 or 6.* (default: all but 9.*)"
    )
    parser.add_argument(
        "--short", action="store_true", help="a selection that takes under a minute"
    )
    return parser


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
