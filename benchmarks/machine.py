"""What this machine is, and which programs it has."""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
from functools import cache
from pathlib import Path

from benchmarks.errors import Failure
from gripproxy import __version__

PACKAGES = {
    "cc": "gcc",
    "wrk": "wrk",
    "pushpin": "pushpin",
    "nginx": "nginx",
    "nchan": "libnginx-mod-nchan",
}
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
HERE = Path(__file__).parent


@cache
def program(name: str) -> str | None:
    """The path of a program, if it is installed."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


def missing(name: str) -> str | None:
    """What is missing of a tool and how Debian calls it, or None when it is there."""
    there = NCHAN_MODULE.exists() if name == "nchan" else program(name) is not None
    return None if there else f"{name} is not installed (Debian: {PACKAGES[name]})"


def installed(name: str) -> str:
    """The path of a program. Raises `Failure` when it is not installed."""
    if (path := program(name)) is None:
        raise Failure(missing(name))
    return path


def compiled(name: str, directory: Path) -> Path:
    """The program that `name`.c of this package makes, in `directory`."""
    out = directory / name
    if not out.exists():
        subprocess.run(
            [installed("cc"), "-O2", "-Wall", "-Wextra", "-o", out, HERE / f"{name}.c"],
            check=True,
            timeout=60,
        )
    return out


def raise_open_files() -> int:
    """Let this process and those it starts open as many files as it may; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def described() -> str:
    """Cores, processor and kernel."""
    cores = len(os.sched_getaffinity(0))
    processor = re.search(r"^model name\s*: (.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    return ", ".join(
        [
            f"{cores} core{'s' if cores != 1 else ''}"
            + (f" of {processor[1].strip()}" if processor else ""),
            *([f"{int(memory[1]) / 2**20:.0f} GiB of memory"] if memory else []),
            f"{platform.system()} {platform.release()}",
        ]
    )


def versions() -> list[str]:
    """Name and version of everything that takes part, as far as it is installed."""
    found = [
        f"gripproxy {__version__}",
        f"Python {platform.python_version()}",
        f"uvloop {importlib.metadata.version('uvloop')}",
    ]
    for name, option, label in (
        ("wrk", "-v", "wrk"),
        ("pushpin", "--version", "Pushpin"),
        ("nginx", "-v", "nginx"),
    ):
        if path := program(name):
            said = subprocess.run([path, option], capture_output=True, text=True, timeout=10)
            number = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)
            found.append(f"{label} {number[0] if number else '(unknown version)'}")
    if not missing("nchan") and (query := program("dpkg-query")):
        said = subprocess.run(
            [query, "--show", "--showformat=${Version}", PACKAGES["nchan"]],
            capture_output=True,
            text=True,
            timeout=10,
        )
        if number := re.search(r"\d+(\.\d+)+", said.stdout):
            found.append(f"Nchan {number[0]}")
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
