"""Packages that cannot be in the test environment: npm's, and those that contradict it.

They are installed once into pytest's cache directory, which `make clean` removes, under a name
that changes with what is to be installed. Several pytest runs may do so at the same time.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.conftest import require

INSTALL_SECONDS = 300


def install_npm(config: pytest.Config, source: Path) -> Path:
    """The `node_modules` of a directory that has package.json and package-lock.json."""
    npm = require("npm")
    files = [source / "package.json", source / "package-lock.json"]
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    return _install(config, files, command) / "node_modules"


def install_pip(config: pytest.Config, requirements: Path) -> Path:
    """A directory for PYTHONPATH with the packages of a requirements file, and no others."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--no-deps", "--target", "packages", "--requirement", requirements.name]
    return _install(config, [requirements], command) / "packages"


def _install(config: pytest.Config, files: Sequence[Path], command: Sequence[str]) -> Path:
    digest = hashlib.sha256(f"{sys.version} {command[1:]}".encode())
    for file in files:
        digest.update(file.read_bytes())
    assert config.cache is not None
    cache = config.cache.mkdir("packages")
    folder = cache / digest.hexdigest()[:16]
    complete = folder / "complete"
    with (cache / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another run was interrupted
            folder.mkdir()
            for file in files:
                shutil.copy(file, folder)
            done = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=INSTALL_SECONDS, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                _give_up(f"{command[0]} could not install {files[0]}:\n{done.stdout}{done.stderr}")
            complete.touch()
    return folder


def _give_up(reason: str) -> NoReturn:
    """A developer may be offline; CI never is."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
