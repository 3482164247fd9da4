"""Items that patch the body of the instruction (JSON Patch as Pushpin understands it)."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import (
    BAD_ORIGIN,
    Stage,
    fresh,
    hold,
    instruct,
    open_stage,
    reply,
    visible,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def change(op: str, path: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "path": path, **more}


@shared
@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        ('{"b": {"d": "é"}, "a": 1}', [], '{"a":1,"b":{"d":"é"}}'),
        ('{"a": 1}\n', [change("add", "/b", value=[2])], '{"a":1,"b":[2]}\n'),
        ('{"a": 1}\r\n', [change("remove", "/a")], "{}\r\n"),
        ("[1, 2]", [change("add", "/0", value=9)], "[9,2]"),
        ("[1, 2]", [change("add", "/-", value=3)], "[1,2,3]"),
        ("[1, 2]", [change("remove", "/0")], "[2]"),
        ('{"a": 1}', [change("replace", "/a", value="x")], '{"a":"x"}'),
        ("[1, 2]", [change("replace", "/", value={"z": 1})], '{"z":1}'),
        ('{"a": 1}', [{"op": "move", "from": "/a", "path": "/b"}], '{"b":1}'),
        ('{"a": 1}', [{"op": "copy", "from": "/a", "path": "/b"}], '{"a":1,"b":1}'),
        (
            '{"a": 1.4, "b": 5}',
            [change("test", "/a", value=1.2), change("test", "/b", value="5")],
            '{"a":1.4,"b":5}',
        ),
    ],
)
async def test_body_patch_changes_the_body_of_the_instruction(
    stage: Stage, before: str, patch: Any, after: str
) -> None:
    c = fresh()
    answer = hold("response", c, {"Content-Type": "application/json"}, before.encode())
    r = await stage.answer_to(answer, c, reply(c, body_patch=patch, code=201))
    assert (r.status, r.text, visible(r)) == (201, after, [("Content-Type", "application/json")])


@shared
@pytest.mark.parametrize(
    ("before", "patch"),
    [
        ("not JSON", [change("add", "/a", value=1)]),
        ('"a string"', []),
        ("[1]", [change("add", "/5", value=1)]),
        ("[1]", [change("replace", "/", value=3)]),
        ('{"a": null}', [change("test", "/a", value=None)]),
        ('{"a": 1}', [change("test", "/a", value=2)]),
        ('{"a": 1}', [change("remove", "/b")]),
        ('{"a": 1}', [change("add", "", value=1)]),
        ('{"a": 1}', [change("add", "/b//c", value=1)]),
        ('{"a": 1}', [change("add", "b", value=1)]),
        ('{"a": {}}', [{"op": "move", "from": "/a", "path": "/a/b"}]),
        ('{"a": 1}', [change("turn", "/a", value=1)]),
        ('{"a": 1}', [{"op": "add", "path": "/b"}]),
    ],
)
async def test_a_body_patch_that_does_not_apply_is_a_502(
    stage: Stage, before: str, patch: Any
) -> None:
    c = fresh()
    r = await stage.answer_to(
        hold("response", c, body=before.encode()), c, reply(c, body_patch=patch)
    )
    assert (r.status, r.reason, r.body) == (502, "Bad Gateway", BAD_ORIGIN)


@shared
async def test_body_patch_applies_to_a_json_instruction(stage: Stage) -> None:
    c = fresh()
    document = {
        "hold": {"channels": [{"name": c}]},
        "response": {"headers": {"Q": "1"}, "body": '{"a": 1}'},
    }
    r = await stage.answer_to(
        instruct(document), c, reply(c, body_patch=[change("add", "/b", value=2)])
    )
    assert (r.body, visible(r)) == (b'{"a":1,"b":2}', [("Q", "1")])
