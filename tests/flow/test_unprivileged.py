"""The installed package as any user, with its files and directory read-only: as in a container."""

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.client import get
from tests.support.proxy import ROOT, free_ports

USER = 12345
SECONDS = 20


def as_nobody_in_particular(environment: dict[str, str]) -> list[str]:
    """What starts a command as a user that no file belongs to, if we may; else as ourselves."""
    if os.geteuid() != 0:
        return []
    user = [require("setpriv"), f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    # The interpreter may lie in a private home: then that user may read everywhere, never write.
    reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    for prefix in (user, user + reads):
        command = [*prefix, sys.executable, "-c", "import aiohttp, gripproxy"]
        if (
            subprocess.run(command, env=environment, capture_output=True, check=False).returncode
            == 0
        ):
            return prefix
    pytest.fail(f"{sys.executable} does not run as another user")


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A directory that everybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        work.chmod(0o755)
        yield work


@pytest.fixture(scope="module")
def installed(work: Path) -> Path:
    """The package as pip installs it from a wheel."""
    source = work / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "gripproxy", source / "gripproxy", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-deps", "--no-index", "--no-cache-dir"]
    subprocess.run(
        [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", work, source], check=True
    )
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", work / "lib", wheel], check=True)
    return work / "lib"


def tree(*roots: Path) -> dict[Path, tuple[int, int]]:
    """Every file below the roots, with size and time of change."""
    paths = [p for root in roots for p in (root, *root.rglob("*"))]
    return {p: (p.lstat().st_size, p.lstat().st_mtime_ns) for p in paths}


def make_read_only(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)


async def test_any_user_serves_requests_and_writes_nothing(work: Path, installed: Path) -> None:
    port, http_control, pull = free_ports(3)
    here = work / "here"
    here.mkdir()
    (here / "gripproxy.conf").write_text(
        f"[runner]\nhttp_port={port}\n"
        "[proxy]\nroutesfile=routes\n"
        f"[handler]\npush_in_http_addr=127.0.0.1\npush_in_http_port={http_control}\n"
        f"push_in_spec=tcp://127.0.0.1:{pull}\n"
    )
    (here / "routes").write_text("* test\n")
    for root in (installed, here):
        make_read_only(root)
    before = tree(installed, here)

    environment = {"PATH": os.defpath, "PYTHONPATH": str(installed), "HOME": "/nonexistent"}

    def forbid_writing() -> None:
        # No user at all may grow a file beyond 0 bytes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    process = await asyncio.create_subprocess_exec(
        *as_nobody_in_particular(environment),
        *(sys.executable, str(installed / "bin" / "gripproxy"), "--config", "gripproxy.conf"),
        cwd=here, env=environment, preexec_fn=forbid_writing,
        stdin=subprocess.DEVNULL, stdout=PIPE, stderr=STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        output = b""
        async with asyncio.timeout(SECONDS):
            while not output.endswith(b"started\n"):
                line = await process.stdout.readline()
                assert line, output.decode()
                output += line
        if os.geteuid() == 0:
            assert Path(f"/proc/{process.pid}").stat().st_uid == USER
        answer = await get(port, "/")
        assert (answer.status, answer.body) == (200, b"Hello from the Pushpin test handler!\n")
        process.terminate()
        async with asyncio.timeout(SECONDS):
            rest, _ = await process.communicate()
        assert process.returncode == 0, (output + rest).decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert tree(installed, here) == before


def test_the_wheel_holds_the_package_its_types_and_its_licence(installed: Path) -> None:
    assert (installed / "gripproxy" / "py.typed").exists()
    assert {p.name for p in (installed / "bin").iterdir()} == {"gripproxy", "gripproxy-publish"}
    (info,) = installed.glob("gripproxy-*.dist-info")
    metadata = (info / "METADATA").read_text()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert (info / "licenses" / "LICENSE").exists()
    for module in (ROOT / "gripproxy").rglob("*.py"):
        assert (installed / module.relative_to(ROOT)).exists()
