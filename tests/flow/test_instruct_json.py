"""Instructions as a JSON body of the type application/grip-instruct."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.flow.holding import (
    BAD_ORIGIN,
    INSTRUCT_TYPE,
    Stage,
    fresh,
    instruct,
    line,
    open_stage,
    reply,
    visible,
)
from tests.support.backend import response

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared

NOT_JSON = "failed to parse application/grip-instruct content as JSON"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*,path_beg=/debug/,debug", "*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


def held(**more: Any) -> dict[str, Any]:
    return {"hold": {"mode": "stream", "channels": [], **more}}


def answered(**more: Any) -> dict[str, Any]:
    return {"response": {"body": "", **more}}


# -- errors ----------------------------------------------------------------------------------

ERRORS: list[tuple[Any, str]] = [
    (b"", NOT_JSON),
    (b"{", NOT_JSON),
    (b'{"response": ' + b"[" * 50_000, NOT_JSON),
    (b'"text"', NOT_JSON),
    (b"null", NOT_JSON),
    (b"\xff\xfe", NOT_JSON),
    (b'{"response": {"body": "\xff"}}', NOT_JSON),
    ([], "instruct must be an object"),
    ({"hold": []}, "instruct contains 'hold' with wrong type"),
    ({"hold": None, "response": {"body": ""}}, "instruct contains 'hold' with wrong type"),
    ({"hold": {}}, "hold does not contain 'channels'"),
    ({"hold": {"channels": {}}}, "hold contains 'channels' with wrong type"),
    (held(channels=[1]), "channel is not an object"),
    (held(channels=[{}]), "channel does not contain 'name'"),
    (held(channels=[{"name": 1}]), "channel contains 'name' with wrong type"),
    (held(channels=[{"name": "c", "prev-id": 1}]), "channel contains 'prev-id' with wrong type"),
    (held(channels=[{"name": "c", "filters": "x"}]), "channel contains 'filters' with wrong type"),
    (held(channels=[{"name": "c", "filters": [1]}]), "filters contains value with wrong type"),
    (held(mode=1), "hold contains 'mode' with wrong type"),
    (held(mode="x"), "hold 'mode' must be set to either 'response' or 'stream'"),
    (held(timeout=-1), "hold contains 'timeout' with invalid value"),
    (held(timeout=None), "hold contains 'timeout' with wrong type"),
    (held(timeout=[]), "hold contains 'timeout' with wrong type"),
    ({"hold": {"channels": [], "keep-alive": []}}, "hold contains 'keep-alive' with wrong type"),
    (
        {"hold": {"channels": [], "keep-alive": {"content": 1}}},
        "keep-alive contains 'content' with wrong type",
    ),
    (
        {"hold": {"channels": [], "keep-alive": {"content-bin": 1}}},
        "keep-alive contains 'content-bin' with wrong type",
    ),
    (
        {"hold": {"channels": [], "keep-alive": {"content": "x", "timeout": -1}}},
        "keep-alive contains 'timeout' with invalid value",
    ),
    (
        {"hold": {"channels": [], "keep-alive": {"content": "x", "timeout": []}}},
        "keep-alive contains 'timeout' with wrong type",
    ),
    (held(meta=[]), "hold contains 'meta' with wrong type"),
    (held(meta={"a": 1}), "'meta' contains 'a' with wrong type"),
    ({"response": []}, ""),
    ({"response": None}, ""),
    (answered(code=1000), "response contains 'code' with invalid value"),
    (answered(code=-1), "response contains 'code' with invalid value"),
    (answered(code=None), "response contains 'code' with wrong type"),
    (answered(code=[]), "response contains 'code' with wrong type"),
    (answered(reason=1), "response contains 'reason' with wrong type"),
    (answered(headers="x"), "response contains 'headers' with wrong type"),
    (answered(headers=None), "response contains 'headers' with wrong type"),
    (answered(headers=["x"]), "headers contains element with wrong type"),
    (answered(headers=[["A"]]), "headers contains list with wrong number of elements"),
    (answered(headers=[[1, "x"]]), "header contains name element with wrong type"),
    (answered(headers=[["A", 1]]), "header contains value element with wrong type"),
    (answered(headers={"A": 1}), "headers contains 'A' with wrong type"),
    ({"response": {"body": 1}}, "response contains 'body' with wrong type"),
    ({"response": {"body": None}}, "response contains 'body' with wrong type"),
    ({"response": {"body-bin": 1}}, "response contains 'body-bin' with wrong type"),
]


@shared
@pytest.mark.parametrize(("document", "message"), ERRORS)
async def test_an_error_is_a_502_that_says_why_on_a_debug_route(
    stage: Stage, document: Any, message: str
) -> None:
    r = await stage.ask(instruct(document), debug=True)
    assert (r.status, r.text) == (502, f"Failed to parse accept instructions: {message}\n")
    assert visible(r) == [("Content-Type", "text/plain")]


@shared
@pytest.mark.parametrize("document", [b"", [], {"hold": {}}, {"response": []}])
async def test_an_error_does_not_say_why_elsewhere(stage: Stage, document: Any) -> None:
    r = await stage.ask(instruct(document))
    assert (r.status, r.body) == (502, BAD_ORIGIN)


@shared
@pytest.mark.parametrize("document", [{}, {"response": {}}, {"response": {"code": 204}}])
async def test_without_a_hold_there_must_be_a_body(stage: Stage, document: Any) -> None:
    """Odd, but what Pushpin does: an empty body must be said."""
    assert (await stage.ask(instruct(document))).status == 502
    r = await stage.ask(instruct(document), debug=True)
    assert (r.status, r.text) == (502, "Failed to parse accept instructions: filter error: \n")


@shared
async def test_the_backend_must_answer_200(stage: Stage) -> None:
    r = await stage.ask(instruct(answered(), status=201), debug=True)
    message = "response code for application/grip-instruct content must be 200"
    assert (r.status, r.text) == (502, f"Failed to parse accept instructions: {message}\n")


@shared
async def test_the_type_is_compared_without_its_parameters(stage: Stage) -> None:
    answer = response(
        200, {"Content-Type": INSTRUCT_TYPE + "; charset=utf-8"}, b'{"response": {"body": "x"}}'
    )
    assert (await stage.ask(answer)).body == b"x"


@shared
async def test_another_type_is_an_ordinary_answer(stage: Stage) -> None:
    answer = response(200, {"Content-Type": INSTRUCT_TYPE + "ion"}, b'{"response": {"body": "x"}}')
    assert (await stage.ask(answer)).body == b'{"response": {"body": "x"}}'


@shared
@pytest.mark.parametrize("debug", [False, True])
async def test_an_instruction_over_100000_bytes_is_a_502(stage: Stage, debug: bool) -> None:
    r = await stage.ask(instruct(answered(body="x" * 100_000)), debug=debug)
    text = f"GRIP instruct response too large from {stage.backend.address}\n".encode()
    assert (r.status, r.body) == (502, text if debug else BAD_ORIGIN)


@pytest.mark.parametrize(
    "fields",
    [
        {"headers": [["X", "a\r\nInjected: 1"]]},
        {"headers": {"X: 1\r\nInjected": "1"}},
        {"reason": "OK\r\nInjected: 1"},
    ],
)
async def test_a_document_cannot_write_lines_of_its_own(stage: Stage, fields: Any) -> None:
    """Pushpin 1.36 lets it."""
    r = await stage.ask(instruct(answered(**fields)))
    assert (r.status, r.body) == (502, BAD_ORIGIN)


# -- the response ----------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({}, 200, "Fine"),
        ({"code": 404}, 404, "Not Found"),
        ({"code": 404, "reason": "Mine"}, 404, "Mine"),
        ({"reason": "Mine"}, 200, "Mine"),
        ({"code": 299}, 299, "Undefined Reason"),
        ({"code": "404"}, 404, "Not Found"),
        ({"code": 404.4}, 404, "Not Found"),
        ({"code": 403.6}, 404, "Not Found"),
    ],
)
async def test_code_and_reason(stage: Stage, fields: Any, status: int, reason: str) -> None:
    document = instruct(answered(**fields)).replace(b"200 OK", b"200 Fine", 1)
    r = await stage.ask(document)
    assert (r.status, r.reason) == (status, reason)


@shared
async def test_headers_and_body_of_the_backend_are_replaced(stage: Stage) -> None:
    headers = [["B", "1"], ["A", "2"], ["B", "3"]]
    r = await stage.ask(instruct(answered(headers=headers, body="é"), {"X-Backend": "1"}))
    assert visible(r) == [("B", "1"), ("A", "2"), ("B", "3")]
    assert (r.framing, r.text) == ("length", "é")


@shared
async def test_headers_given_as_an_object_come_sorted_by_name(stage: Stage) -> None:
    r = await stage.ask(instruct(answered(headers={"Z": "1", "B": "2", "M": "3"})))
    assert visible(r) == [("B", "2"), ("M", "3"), ("Z", "1")]


@shared
async def test_headers_are_not_filtered_but_framing_is_ours(stage: Stage) -> None:
    headers = [
        ["Grip-X", "1"],
        ["Content-Length", "99"],
        ["Transfer-Encoding", "chunked"],
        ["X", "2"],
    ]
    r = await stage.ask(
        instruct(answered(headers=headers, body="four"), {"Grip-Expose-Headers": "X"})
    )
    assert visible(r) == [("Grip-X", "1"), ("X", "2")]
    assert (r.framing, r.header("Content-Length"), r.body) == ("length", "4", b"four")


@shared
@pytest.mark.parametrize(
    ("text", "data"),
    [("YWJj", b"abc"), ("Y!W\nJj", b"abc"), ("YQ", b"a"), ("AP8=", b"\0\xff"), ("", b"")],
)
async def test_body_bin_is_lenient_base64_and_wins_over_body(
    stage: Stage, text: str, data: bytes
) -> None:
    assert (
        await stage.ask(instruct({"response": {"body-bin": text, "body": "text"}}))
    ).body == data


@shared
@pytest.mark.parametrize(("code", "status"), [(None, 404), (201, 201)])
async def test_grip_status_counts_until_the_document_sets_a_code(
    stage: Stage, code: int | None, status: int
) -> None:
    fields = {} if code is None else {"code": code}
    assert (
        await stage.ask(instruct(answered(**fields), {"Grip-Status": "404 Hm"}))
    ).status == status


@shared
async def test_bad_headers_count_beside_a_good_document(stage: Stage) -> None:
    r = await stage.ask(instruct(answered(), {"Grip-Timeout": "soon"}), debug=True)
    assert (r.status, r.text) == (
        502,
        "Failed to parse accept instructions: failed to parse Grip-Timeout\n",
    )


# -- the hold --------------------------------------------------------------------------------


@shared
async def test_the_mode_is_response_unless_said(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(instruct({"hold": {"channels": [{"name": c}]}}), c, reply(c, "x"))
    assert (r.framing, r.body) == ("length", b"x")


@shared
async def test_a_stream_starts_with_the_response_of_the_document(stage: Stage) -> None:
    c, d = fresh(), fresh()
    document = {
        "hold": {
            "mode": "stream",
            "channels": [{"name": c}, {"name": d, "filters": ["skip-self"]}],
        },
        "response": {"code": 202, "headers": [["X", "1"]], "body": "open\n"},
    }
    async with stage.held(instruct(document, {"X-Backend": "1"}), c, d) as client:
        r = await client.read_head()
        assert (r.status, r.reason, r.framing, visible(r)) == (
            202,
            "Accepted",
            "chunked",
            [("X", "1")],
        )
        await stage.proxy.publish(line(c, "1\n"), line(d, "2\n"))
        assert await client.read_bytes(9) == b"open\n1\n2\n"


@shared
async def test_a_hold_needs_no_response(stage: Stage) -> None:
    c = fresh()
    async with stage.held(
        instruct({"hold": {"mode": "stream", "channels": [{"name": c}]}}), c
    ) as client:
        r = await client.read_head()
        assert (r.status, r.reason, visible(r)) == (200, "OK", [])
        await stage.proxy.publish(line(c, "x"))
        assert await client.read_bytes(1) == b"x"


@shared
async def test_prev_id_of_a_channel_comes_back_in_grip_last(stage: Stage) -> None:
    c = fresh()
    answers = [
        instruct({"hold": {"channels": [{"name": c, "prev-id": "7"}]}}),
        response(body=b"second"),
    ]
    path = "/" + fresh("last")
    async with stage.held(lambda _: answers.pop(0), c, path=path) as client:
        await stage.proxy.publish(reply(c, action="hint"))
        assert (await client.read_response()).body == b"second"
    assert (await stage.requests_for(path, 2))[1].all("Grip-Last") == [f"{c}; last-id=7"]


@shared
async def test_channels_of_the_headers_and_the_document_add_up(stage: Stage) -> None:
    c, d = fresh(), fresh()
    answer = instruct({"hold": {"mode": "stream", "channels": [{"name": d}]}}, {"Grip-Channel": c})
    async with stage.held(answer, c, d) as client:
        await client.read_head()
        await stage.proxy.publish(line(c, "1"), line(d, "2"))
        assert await client.read_bytes(2) == b"12"


@shared
async def test_a_hold_by_headers_takes_the_response_of_the_document(stage: Stage) -> None:
    c = fresh()
    headers = {"Grip-Hold": "stream", "Grip-Channel": c}
    async with stage.held(
        instruct(answered(headers={"X": "1"}, body="open"), headers), c
    ) as client:
        r = await client.read_head()
        assert (r.framing, visible(r)) == ("chunked", [("X", "1")])
        assert await client.read_bytes(4) == b"open"


@shared
@pytest.mark.parametrize("timeout", ["7", "abc", 7.4, True])
async def test_a_timeout_of_any_scalar_type_is_accepted(stage: Stage, timeout: Any) -> None:
    c = fresh()
    document = {"hold": {"channels": [{"name": c}], "timeout": timeout}}
    assert (await stage.answer_to(instruct(document), c, reply(c, "x"))).body == b"x"


@shared
async def test_an_empty_keep_alive_is_accepted(stage: Stage) -> None:
    c = fresh()
    document = {"hold": {"mode": "stream", "channels": [{"name": c}], "keep-alive": {}}}
    async with stage.held(instruct(document), c) as client:
        await client.read_head()
        await stage.proxy.publish(line(c, "x"))
        assert await client.read_bytes(1) == b"x"
