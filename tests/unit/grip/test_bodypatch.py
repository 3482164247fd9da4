"""JSON Patch, where it follows RFC 6902 and where Pushpin does not."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import PatchError
from gripproxy.grip.bodypatch import COPIED_BYTES_MAX, apply, apply_to_body


def add(path: str, value: object) -> dict[str, object]:
    return {"op": "add", "path": path, "value": value}


def replace(path: str, value: object) -> dict[str, object]:
    return {"op": "replace", "path": path, "value": value}


def remove(path: str) -> dict[str, object]:
    return {"op": "remove", "path": path}


def move(source: str, path: str) -> dict[str, object]:
    return {"op": "move", "from": source, "path": path}


def duplicate(source: str, path: str) -> dict[str, object]:
    return {"op": "copy", "from": source, "path": path}


def expect(path: str, value: object) -> dict[str, object]:
    return {"op": "test", "path": path, "value": value}


@pytest.mark.parametrize(
    ("document", "operation", "result"),
    [
        ({}, add("/a", None), {"a": None}),
        ({"a": 1}, add("/a", 2), {"a": 2}),
        ({}, add("/a~1b~0c~2", 1), {"a/b~c~2": 1}),
        ({}, add("/-", 1), {"-": 1}),
        ({}, add("/", [1]), [1]),
        ([1, 2], add("/0", 9), [9, 2]),
        ([1, 2], add("/01", 9), [1, 9]),
        ([1, 2], add("/-", 9), [1, 2, 9]),
        ({"a": [{"b": [1]}]}, add("/a/0/b/-", 2), {"a": [{"b": [1, 2]}]}),
        ({"a": None}, replace("/a", {"x": [1]}), {"a": {"x": [1]}}),
        ({"a": 1}, replace("/", []), []),
        ([1, 2], replace("/1", 9), [1, 9]),
        ({"a": None}, remove("/a"), {}),
        ([1, 2], remove("/0"), [2]),
        ({"a": 1}, move("/a", "/b"), {"b": 1}),
        ({"a": {"b": 1}}, move("/a", "/a"), {"a": {"b": 1}}),
        ({"a": {"b": 1}}, move("/a", "/ab"), {"ab": {"b": 1}}),
        ({"a": {"b": 1}}, move("/a/b", "/a"), {"a": 1}),
        ({"a": {"b": 1}}, move("/a", "/"), {"b": 1}),
        ([1, 2, 3], move("/0", "/1"), [2, 1]),
        ([1, 2, 3], move("/0", "/-"), [2, 3, 1]),
        ({"a": {"b": 1}}, duplicate("/a", "/a/c"), {"a": {"b": 1, "c": {"b": 1}}}),
        ({"a": 1}, duplicate("/", "/a"), {"a": {"a": 1}}),
        ({"a": [1]}, duplicate("/a", "/a/0"), {"a": [[1]]}),
        ({"a": [1]}, duplicate("/a", "/"), [1]),
    ],
)
def test_operations(document: object, operation: object, result: object) -> None:
    assert apply(document, [operation]) == result


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        ({}, 1),
        ({}, None),
        ({}, []),
        ({}, {}),
        ({}, {"op": "add"}),
        ({}, {"op": 1, "path": "/a"}),
        ({}, {"op": "add", "path": 1, "value": 1}),
        ({}, {"op": "add", "path": "/a"}),
        ({}, {"op": "Add", "path": "/a", "value": 1}),
        ({}, add("", 1)),
        ({}, add("a", 1)),
        ({}, add("//", 1)),
        ({"a": {}}, add("/a/", 1)),
        ({}, add("/a/b", 1)),
        ({"a": 1}, add("/a/b", 1)),
        ({"a": None}, add("/a/b", 1)),
        ({"a": []}, add("/a/-/b", 1)),
        ([1], add("/1", 9)),
        ([1], add("/x", 9)),
        ([1], add("/-1", 9)),
        ([1], add("/\u0660", 9)),
        ([1], add("/" + "0" * 10, 9)),
        ({"a": 1}, {"op": "replace", "path": "/a"}),
        ({"a": 1}, replace("/b", 1)),
        ([1], replace("/-", 1)),
        ({"a": 1}, remove("/b")),
        ({"a": 1}, remove("/")),
        ([1], remove("/-")),
        ({"a": 1}, {"op": "move", "path": "/b"}),
        ({"a": 1}, move("/c", "/b")),
        ({"a": 1}, move("/", "/b")),
        ({"a": {"b": 1}}, move("/a", "/a/c")),
        ([1, 2, 3], move("/0", "/2")),
        ({"a": 1}, {"op": "copy", "path": "/b"}),
        ({"a": 1}, duplicate("/c", "/b")),
        ([1], duplicate("/-", "/-")),
        ({"a": 1}, {"op": "test", "path": "/a"}),
        ({"a": 1}, expect("/b", 1)),
        ([1], expect("/-", 1)),
    ],
)
def test_what_does_not_apply_is_an_error(document: object, operation: object) -> None:
    with pytest.raises(PatchError):
        apply(document, [operation])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1),
        (1.4, 1.2),
        (1.5, 2),
        ("5", 5),
        ("x", 0),
        ("", False),
        (True, 1),
        (0.4, False),
        ("a", "a"),
        ([], []),
        ([1.4, "5"], [1.2, 5]),
        ({"a": True}, {"a": 1}),
    ],
)
def test_values_that_count_as_equal(one: object, other: object) -> None:
    assert apply({"a": one}, [expect("/a", other)]) == {"a": one}
    assert apply({"a": other}, [expect("/a", one)]) == {"a": other}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1.6, 1.4),
        ("5", "5.0"),
        ("a", "A"),
        (None, None),
        (None, 0),
        (True, "true"),
        ([], {}),
        ([], 0),
        ([1], [1, 2]),
        ([None], [None]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
    ],
)
def test_values_that_do_not(one: object, other: object) -> None:
    for operation, value in ((expect("/a", other), one), (expect("/a", one), other)):
        with pytest.raises(PatchError, match="test failed"):
            apply({"a": value}, [operation])


def test_operations_see_the_results_of_earlier_ones_and_the_first_error_ends_the_patch() -> None:
    assert apply({}, [add("/a", [1]), expect("/a", [1]), add("/a/-", 2)]) == {"a": [1, 2]}
    with pytest.raises(PatchError):
        apply({}, [add("/a", 1), remove("/b"), add("/c", 1)])


def test_a_patch_can_be_applied_again_though_its_values_were_patched() -> None:
    patch = [add("/list", []), add("/list/-", 1)]
    assert apply({}, patch) == {"list": [1]}
    assert apply({}, patch) == {"list": [1]}


def test_copies_are_independent() -> None:
    assert apply({"a": [1]}, [duplicate("/a", "/b"), add("/b/-", 2)]) == {"a": [1], "b": [1, 2]}


def test_copying_cannot_be_used_to_fill_the_memory() -> None:
    doubling = duplicate("/", "/a")
    with pytest.raises(PatchError, match="too large"):
        apply({"x": "y" * 1000}, [doubling] * 100)
    assert apply({"x": "y" * (COPIED_BYTES_MAX // 3)}, [doubling])


def test_deep_nesting_is_an_error() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(PatchError, match="nested too deeply"):
        apply({"a": deep}, [expect("/a", deep)])
    with pytest.raises(PatchError, match="cannot be written"):
        apply({}, [add("/a", deep)])


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b" { } ", b"{}"),
        (b'{"b":{"z":1,"y":2},"a":[1, 2]}\n', b'{"a":[1,2],"b":{"y":2,"z":1}}\n'),
        (b"[]\r\n", b"[]\r\n"),
        (b"{}\n\n", b"{}\n"),
        (b"{}\r", b"{}"),
        (b'["\\u00e9\\/<"]', '["é/<"]'.encode()),
    ],
)
def test_a_body_is_written_compactly_with_its_last_newline(body: bytes, result: bytes) -> None:
    assert apply_to_body(body, []) == result


@pytest.mark.parametrize("body", [b"", b"x", b"1", b'"x"', b"null", b'{"a":"\xff"}'])
def test_a_body_is_an_object_or_an_array(body: bytes) -> None:
    with pytest.raises(PatchError):
        apply_to_body(body, [])


def test_so_is_the_result() -> None:
    assert apply_to_body(b"{}", [add("/", [])]) == b"[]"
    with pytest.raises(PatchError, match="result"):
        apply_to_body(b"{}", [add("/", 1)])


def test_text_that_is_not_unicode_cannot_be_written() -> None:
    with pytest.raises(PatchError, match="cannot be written"):
        apply_to_body(b"{}", [add("/a", "\udcff")])


keys = st.sampled_from(["a", "b", "0", "1", "-", ""])
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | keys,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)
paths = st.lists(keys, max_size=3).map(lambda names: "/" + "/".join(names)) | keys
operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": paths},
    optional={"value": documents, "from": paths},
)


@settings(max_examples=300, deadline=None)
@given(documents, st.lists(operations | documents, max_size=4))
def test_any_patch_applies_or_raises_our_error_and_is_left_alone(
    document: object, patch: list[object]
) -> None:
    before = copy.deepcopy(patch)
    body = json.dumps(document).encode()
    try:
        result = apply_to_body(body, patch)
    except PatchError:
        pass
    else:
        assert apply_to_body(result, []) == result
    assert patch == before


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_body_is_patched_or_raises_our_error(body: bytes) -> None:
    try:
        apply_to_body(body, [add("/a", 1)])
    except PatchError:
        return
