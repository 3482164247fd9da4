"""The Autobahn test suite: gets it from PyPI, and runs its cases against a server."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
LEFT_OUT = ["9.*"]  # they measure
INSTALL_SECONDS = 300
RUN_SECONDS = 3600


class Failure(Exception):
    """The suite could not be installed or run."""


class Case(NamedTuple):
    """How a case ended: what the server did, and how the connection was closed."""

    id: str
    behavior: str
    behavior_close: str = "OK"
    result: str = ""
    result_close: str = ""


def install() -> Path:
    """The directory that has the suite, within this Python's venv. Raises `Failure`."""
    version = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:8]
    directory = Path(sys.prefix) / f"autobahn-{version}"
    if not directory.exists():
        print("Installing the Autobahn test suite ...", flush=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        with tempfile.TemporaryDirectory(prefix="autobahn-", dir=sys.prefix) as partial:
            made = Path(partial) / "packages"
            done = subprocess.run(
                [*pip, "install", "--no-deps", "--target", made, "--requirement", REQUIREMENTS],
                timeout=INSTALL_SECONDS,
            )
            if done.returncode:
                raise Failure(f"pip ended with status {done.returncode}")
            made.rename(directory)
    return directory


async def run(directory: Path, url: str, cases: Sequence[str]) -> list[Case]:
    """Run those that match any of the patterns in `cases`. Raises `Failure`."""
    spec = {
        "servers": [{"url": url, "agent": "server"}],
        "cases": cases,
        "exclude-cases": LEFT_OUT,
        "exclude-agent-cases": {},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-W", "ignore", HERE / "fuzzingclient.py", json.dumps(spec)),
        env={**os.environ, "PYTHONPATH": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not output:
        raise Failure(errors.decode(errors="replace")[-2000:])
    chosen, *ended = map(json.loads, output.splitlines())
    found = {values[0]: Case(*values) for values in ended}
    return [found.get(case, Case(case, "DID NOT RUN")) for case in chosen]
