"""What every test may ask for, whatever it tests."""

import os
import shutil

import pytest


def require(tool: str) -> str:
    """Return the path of a program that the test drives.

    Without the program the test is skipped on a developer's machine. Under `CI=true` it fails: the
    run installs all of them there, and a silent skip would hide a hole.
    """
    path = shutil.which(tool)
    if path is not None:
        return path
    reason = f"{tool} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI runs every test")
    pytest.skip(reason)
