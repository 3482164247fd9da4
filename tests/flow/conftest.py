"""Leaves out, for Pushpin, the tests of behaviour that it does not share."""

import pytest

from tests.support.proxy import PUSHPIN


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With GRIPPROXY_TEST_TARGET=pushpin, keep the tests marked `shared`."""
    if not PUSHPIN:
        return
    # the hook sees every collected item, those of the other folders too
    here = [i for i in items if "shared" in i.keywords or "flow" not in i.path.parts]
    config.hook.pytest_deselected(items=[i for i in items if i not in here])
    items[:] = here
