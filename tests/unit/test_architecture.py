"""The direction of imports: what `docs/architecture.md` draws, checked against every module.

A part is a package, or the modules that make up one thing. It may import itself and every part of a
later row. Parts of one row never import each other.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gripproxy

ROWS = (
    "cli",
    "app check",
    "clients control publishing publish logs",
    "backend hub",
    "grip config routes accesslog stats deadlines",
    "websocket",
    "http1",
    "errors",
)
# Parts that are more than the module or the package of their name.
MORE = {
    "cli": "__main__",
    "app": "routesource",
    "config": "settings values ini notices",
    "routes": "routesfile routeline",
}
# The composition root is alone in knowing who plays these: to others, a protocol is enough.
ROOT, PLAYERS = "app", {"clients", "control", "publishing"}
# Without input and output, and without a clock: `now` is an argument.
PURE = {"grip", "http1", "hub", "websocket"}
EFFECTS = (
    "asyncio datetime multiprocessing os random secrets select selectors signal socket ssl "
    "subprocess threading time aiohttp uvloop zmq"
)

RANK = {part: rank for rank, row in enumerate(ROWS) for part in row.split()}
PART = {part: part for part in RANK} | {
    module: part for part, modules in MORE.items() for module in modules.split()
}
PACKAGE = Path(gripproxy.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def imports(source: str) -> Iterator[str]:
    """The full name of everything that `source` imports, also where it is only for types."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def complaints(module: str, source: str) -> list[str]:
    """What is wrong with the imports of `module`, a name without the leading `gripproxy.`"""
    part = PART[module.partition(".")[0]]
    found = []
    for name in imports(source):
        top, _, rest = name.partition(".")
        if top != "gripproxy":
            if part in PURE and top in EFFECTS.split():
                found.append(f"{part} has no effects, and imports {top}")
            continue
        if rest in ("", "__version__"):
            continue
        other = PART[rest.partition(".")[0]]
        if other != part and RANK[other] <= RANK[part]:
            found.append(f"{part} imports {other}")
        if other in PLAYERS and part not in (ROOT, other):
            found.append(f"{part} imports {other}, as only {ROOT} may")
    return found


def test_every_module_has_its_place() -> None:
    assert {module.partition(".")[0] for module in MODULES} == set(PART)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_in_one_direction(module: str) -> None:
    assert complaints(module, MODULES[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("hub.x", "from gripproxy.backend.pool import Pool", "hub imports backend"),
        ("hub.x", "import asyncio", "hub has no effects, and imports asyncio"),
        ("grip.x", "from time import monotonic", "grip has no effects, and imports time"),
        ("http1.x", "def f(): import os.path", "http1 has no effects, and imports os"),
        ("http1.x", "from gripproxy.grip import item", "http1 imports grip"),
        ("websocket.x", "from gripproxy.grip import item", "websocket imports grip"),
        ("http1.x", "import gripproxy.websocket.frames", "http1 imports websocket"),
        ("ini", "if TYPE_CHECKING:\n    from gripproxy import app", "config imports app"),
        ("errors", "import gripproxy.stats", "errors imports stats"),
        ("cli", "import gripproxy.publishing", "cli imports publishing, as only app may"),
    ],
)
def test_a_step_in_the_wrong_direction_is_found(module: str, source: str, complaint: str) -> None:
    assert complaints(module, source) == [complaint]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app", "from gripproxy.clients import front\nfrom gripproxy.control import http"),
        ("values", "from gripproxy.ini import Value"),
        ("hub.fanout", "from gripproxy.hub.registry import Registry"),
        ("__main__", "from gripproxy.cli import main"),
        ("publish", "from gripproxy import __version__\nimport time"),
    ],
)
def test_a_step_in_the_right_direction_is_not(module: str, source: str) -> None:
    assert complaints(module, source) == []
