"""Instructions in JSON."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import InstructError
from gripproxy.grip.instructbody import add_body
from gripproxy.grip.terms import (
    Channel,
    HoldMode,
    Instruct,
    KeepAlive,
    KeepAliveMode,
    NextLink,
    Response,
)

IDLE, INTERVAL = KeepAliveMode.IDLE, KeepAliveMode.INTERVAL


def headers(
    *,
    hold: HoldMode | None = None,
    keep_alive: KeepAlive | None = None,
    next_link: NextLink | None = None,
    meta: dict[str, str] | None = None,
    status: tuple[int, bytes] = (200, b"OK"),
) -> Instruct:
    """What the headers of the response have said."""
    response = Response(*status, (), b"")
    channels = (Channel("first"),)
    return Instruct(hold, channels, 55, keep_alive, meta or {}, response, next_link, None)


def read(document: object, given_headers: Instruct | None = None) -> Instruct:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return add_body(given_headers or headers(), text)


def hold(given_headers: Instruct | None = None, **fields: object) -> Instruct:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return read({"hold": {"channels": [], **named}}, given_headers)


def response(**fields: object) -> Response:
    return read({"response": {"body": "", **_dashed(fields)}}).response


def _dashed(fields: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


def error(document: object) -> str:
    with pytest.raises(InstructError) as caught:
        read(document)
    return str(caught.value)


class TestDocument:
    @pytest.mark.parametrize("text", [b"", b"x", b"1", b"null", b'"x"'])
    def test_must_be_json(self, text: bytes) -> None:
        assert error(text) == "failed to parse application/grip-instruct content as JSON"

    def test_must_be_an_object(self) -> None:
        assert error([]) == "instruct must be an object"

    @pytest.mark.parametrize("document", [{}, {"response": {}}, {"response": {"code": 201}}])
    def test_without_a_hold_there_must_be_a_body(self, document: object) -> None:
        assert error(document) == "filter error: "

    def test_but_a_hold_or_a_link_in_the_headers_will_do(self) -> None:
        held = headers(hold=HoldMode.STREAM)
        assert read({}, held) == held
        linked = headers(next_link=NextLink("/", 1))
        assert read({}, linked) == linked
        assert read({"response": {"body-bin": ""}}).response.body == b""


class TestHold:
    def test_every_field(self) -> None:
        assert hold(
            mode="stream",
            channels=[{"name": "a", "prev-id": "", "filters": ["x", "y"]}, {"name": "b"}],
            timeout="30",
            keep_alive={"content": "k", "timeout": 20},
            meta={"user": "u"},
        ) == Instruct(
            HoldMode.STREAM,
            (Channel("first"), Channel("a", "", ("x", "y")), Channel("b")),
            30,
            KeepAlive(b"k", 20, INTERVAL),
            {"user": "u"},
            Response(200, b"OK", (), b""),
            None,
            None,
        )

    def test_the_mode_is_response_unless_said_whatever_the_headers_say(self) -> None:
        assert hold(headers(hold=HoldMode.STREAM)).hold is HoldMode.RESPONSE

    def test_meta_adds_to_that_of_the_headers(self) -> None:
        parsed = hold(headers(meta={"a": "1", "b": "2"}), meta={"b": "3"})
        assert parsed.meta == {"a": "1", "b": "3"}

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"mode": None}, "hold contains 'mode' with wrong type"),
            ({"mode": ""}, "hold 'mode' must be set to either 'response' or 'stream'"),
            ({"mode": "Stream"}, "hold 'mode' must be set to either 'response' or 'stream'"),
            ({"channels": None}, "hold contains 'channels' with wrong type"),
            ({"channels": [1]}, "channel is not an object"),
            ({"channels": [{}]}, "channel does not contain 'name'"),
            ({"channels": [{"name": 1}]}, "channel contains 'name' with wrong type"),
            (
                {"channels": [{"name": "", "prev-id": None}]},
                "channel contains 'prev-id' with wrong type",
            ),
            (
                {"channels": [{"name": "", "filters": None}]},
                "channel contains 'filters' with wrong type",
            ),
            (
                {"channels": [{"name": "", "filters": [1]}]},
                "filters contains value with wrong type",
            ),
            (
                {"channels": [{"name": "c", "filters": ["f"] * 6}]},
                "too many filters for channel 'c'",
            ),
            ({"timeout": None}, "hold contains 'timeout' with wrong type"),
            ({"timeout": -1}, "hold contains 'timeout' with invalid value"),
            ({"meta": None}, "hold contains 'meta' with wrong type"),
            ({"meta": {"a": 1}}, "'meta' contains 'a' with wrong type"),
            ({"keep-alive": None}, "hold contains 'keep-alive' with wrong type"),
            ({"keep-alive": {"content": 1}}, "keep-alive contains 'content' with wrong type"),
            (
                {"keep-alive": {"content-bin": None, "content": "x"}},
                "keep-alive contains 'content-bin' with wrong type",
            ),
            ({"keep-alive": {"timeout": []}}, "keep-alive contains 'timeout' with wrong type"),
            ({"keep-alive": {"timeout": -1}}, "keep-alive contains 'timeout' with invalid value"),
        ],
    )
    def test_errors(self, fields: dict[str, object], message: str) -> None:
        assert error({"hold": {"channels": [], **fields}}) == message

    def test_a_hold_is_an_object_with_channels(self) -> None:
        assert error({"hold": None}) == "instruct contains 'hold' with wrong type"
        assert error({"hold": {}}) == "hold does not contain 'channels'"


class TestKeepAlive:
    @pytest.mark.parametrize(
        ("value", "keep_alive"),
        [
            ({"content": "é"}, KeepAlive("é".encode(), 55, INTERVAL)),
            ({"content-bin": "eHg", "content": 1}, KeepAlive(b"xx", 55, INTERVAL)),
            ({"content": "k", "timeout": 0}, KeepAlive(b"k", 1, INTERVAL)),
            ({"content": "k", "mode": "idle"}, KeepAlive(b"k", 55, INTERVAL)),
            ({"content": ""}, None),
            ({"content-bin": "!!"}, None),
            ({}, None),
        ],
    )
    def test_content_and_timeout(self, value: object, keep_alive: KeepAlive | None) -> None:
        assert hold(keep_alive=value).keep_alive == keep_alive

    def test_a_header_gives_the_mode_and_what_the_body_does_not_say(self) -> None:
        given_headers = headers(keep_alive=KeepAlive(b"q", 7, IDLE))
        assert hold(given_headers).keep_alive == KeepAlive(b"q", 7, IDLE)
        assert hold(given_headers, keep_alive={"timeout": 2}).keep_alive == KeepAlive(b"q", 2, IDLE)
        assert hold(given_headers, keep_alive={"content": "k"}).keep_alive == KeepAlive(
            b"k", 55, IDLE
        )
        assert hold(given_headers, keep_alive={"content": ""}).keep_alive is None


class TestResponse:
    def test_every_field(self) -> None:
        assert response(
            code="404", reason="Nope", headers=[["B", "1"], ["a", "2"]], body="é"
        ) == Response(404, b"Nope", ((b"B", b"1"), (b"a", b"2")), "é".encode())

    def test_a_code_resets_the_reason_which_grip_status_may_have_set(self) -> None:
        given_headers = headers(status=(201, b"Mine"))
        for fields, expected in (
            ({}, (201, b"Mine")),
            ({"code": 202}, (202, b"Accepted")),
            ({"reason": "Yours"}, (201, b"Yours")),
        ):
            document = {"response": {"body": "", **fields}}
            parsed = read(document, given_headers).response
            assert (parsed.code, parsed.reason) == expected

    def test_a_binary_body_wins(self) -> None:
        assert response(body=1, body_bin="e H\nh!g").body == b"xx`"

    def test_headers_are_not_filtered_but_for_those_of_the_connection(self) -> None:
        parsed = response(headers={"b": "1", "Grip-X": "2", "content-length": "9", "B": "3"})
        assert parsed.headers == ((b"B", b"3"), (b"Grip-X", b"2"), (b"b", b"1"))

    @pytest.mark.parametrize("value", [None, 1, [], "x"])
    def test_another_type_has_an_empty_message(self, value: object) -> None:
        assert error({"response": value}) == ""

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"code": None}, "response contains 'code' with wrong type"),
            ({"code": 1000}, "response contains 'code' with invalid value"),
            ({"reason": 1}, "response contains 'reason' with wrong type"),
            ({"headers": None}, "response contains 'headers' with wrong type"),
            ({"headers": {"a": "b\r\nc: d"}}, "response contains 'headers' with invalid value"),
            ({"body": None}, "response contains 'body' with wrong type"),
            ({"body-bin": None, "body": ""}, "response contains 'body-bin' with wrong type"),
        ],
    )
    def test_errors(self, fields: dict[str, object], message: str) -> None:
        assert error({"response": fields}) == message


names = st.sampled_from(
    [
        "hold",
        "response",
        "mode",
        "channels",
        "name",
        "prev-id",
        "filters",
        "timeout",
        "keep-alive",
        "content",
        "content-bin",
        "meta",
        "code",
        "reason",
        "headers",
        "body",
        "body-bin",
    ]
)
scalars: st.SearchStrategy[Any] = (
    st.none()
    | st.integers(-2, 1200)
    | st.text(max_size=3)
    | st.sampled_from(["stream", "response"])
)
documents = st.dictionaries(
    st.sampled_from(["hold", "response"]),
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
        max_leaves=15,
    ),
)


@settings(max_examples=300, deadline=None)
@given(documents)
def test_any_document_is_an_instruction_or_our_error(document: object) -> None:
    try:
        read(document)
    except InstructError as error:
        str(error).encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_an_instruction_or_our_error(text: bytes) -> None:
    try:
        read(text)
    except InstructError as error:
        str(error).encode()
