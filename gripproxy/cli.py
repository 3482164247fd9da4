"""The command line, and the only exit codes.

0 stopped as told, 1 could not run, 2 wrong options.
"""

import argparse
import asyncio
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from gripproxy import __version__
from gripproxy.app import App
from gripproxy.check import bad_keys, describe, missing_certificates
from gripproxy.config import Config, Notice, Options, find_config, load
from gripproxy.errors import ConfigError
from gripproxy.logs import Logs
from gripproxy.routesource import load_routes

log = logging.getLogger("gripproxy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process) ask for; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    checking = given[:1] == ["check"]
    options = _parser(checking).parse_args(given[1:] if checking else given)
    try:
        config, notices = _load(options)
        if checking:
            return _check(config, notices)
        return _run(config, notices, merge_output=options.merge_output)
    except ConfigError as error:
        print(f"gripproxy: {error}", file=sys.stderr)
        return 1


def _check(config: Config, notices: Sequence[Notice]) -> int:
    """Print what was understood.

    Faulty routes count as errors here, though a start would skip them.
    """
    table, complaints = load_routes(config)
    print(describe(config, table))
    for notice in notices:
        print(f"{notice.level}: {notice.text}")
    for complaint in complaints:
        print(f"{'error' if complaint.skipped else 'warning'}: {complaint}", file=sys.stderr)
    faults = [*bad_keys(config, table), *missing_certificates(config)]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults or any(complaint.skipped for complaint in complaints) else 0


def _run(config: Config, notices: Sequence[Notice], *, merge_output: bool) -> int:
    logs = Logs(config.logfile, config.runner.log_level, name_service=merge_output)
    log.info("starting...")
    for notice in notices:
        log.log(logging.WARNING if notice.level == "warning" else logging.INFO, "%s", notice.text)
    # What was loaded so far stays for good, so the collector need not look at it. Held connections
    # make no garbage in cycles, and a collection over all of them is a pause for all of them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)

    async def serve() -> None:
        await App(config, logs).run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except ConfigError as error:
        log.error("%s", error)
        raise
    return 0


def _load(options: argparse.Namespace) -> tuple[Config, list[Notice]]:
    path = options.config if options.config is not None else find_config(Path.cwd())
    return load(
        path,
        Options(
            id=options.id,
            ports=tuple(options.port),
            routes=tuple(options.route),
            log_level=options.loglevel,
            verbose=options.verbose,
            logfile=options.logfile,
        ),
    )


def _parser(checking: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gripproxy check" if checking else "gripproxy",
        description="Load the configuration and the routes, and print what was understood."
        if checking
        else "A reverse proxy for realtime HTTP. `gripproxy check`, with the same options, shows "
        "what they mean and what is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="pushpin.conf or our own (default: gripproxy.conf or pushpin.conf in ./config, ., "
        "./examples/config or /etc/gripproxy; else built-in settings)",
    )
    parser.add_argument(
        "--logfile",
        metavar="FILE",
        type=Path,
        help="append the log to FILE, not to standard output",
    )
    parser.add_argument(
        "--loglevel",
        metavar="X",
        help="0 errors to 4 traces; N, SERVICE:N or a comma list (default 2)",
    )
    parser.add_argument("--verbose", action="store_true", help="log level 3")
    parser.add_argument(
        "-m", "--merge-output", action="store_true", help="name the service in each log line"
    )
    parser.add_argument(
        "--port",
        metavar="[ADDR:]PORT",
        action="append",
        default=[],
        help="listen here, not where the file says",
    )
    parser.add_argument(
        "--id", metavar="N", type=int, help="instance: moves the internal ports by 10 * N"
    )
    parser.add_argument(
        "--route",
        metavar="LINE",
        action="append",
        default=[],
        help="a line of routes, in place of the file's",
    )
    parser.add_argument(
        "-v", "-V", "--version", action="version", version=f"gripproxy {__version__}"
    )
    return parser
