"""Publish items: what is taken, what is refused and in which words."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import ItemError
from gripproxy.grip import tnetstring
from gripproxy.grip.item import (
    NAMES_MAX,
    Action,
    HttpResponse,
    HttpStream,
    Item,
    WsMessage,
    WsType,
    content_size,
    footprint,
    parse_frame,
    parse_json,
    parse_publish_body,
    parse_tnetstring,
)

STREAM = {"http-stream": {"content": "x"}}
MISSING_BODY = "'http-response' does not contain 'body', 'body-bin', or 'body-patch'"
MISSING_CONTENT = "'ws-message' does not contain 'content' or 'content-bin'"


def body(*items: object) -> bytes:
    return json.dumps({"items": items}).encode()


def refused(obj: object) -> str:
    """The message for an item in JSON."""
    with pytest.raises(ItemError) as caught:
        parse_json(obj)
    return str(caught.value)


def refused_frame(obj: object) -> str:
    """The message for an item in a tnetstring."""
    with pytest.raises(ItemError) as caught:
        parse_tnetstring(tnetstring.loads(tnetstring.dumps(obj)))
    return str(caught.value)


def response(**fields: object) -> HttpResponse:
    item = parse_json({"channel": "c", "http-response": _dashed(fields)})
    assert item.http_response is not None
    return item.http_response


def stream(**fields: object) -> HttpStream:
    item = parse_json({"channel": "c", "http-stream": _dashed(fields)})
    assert item.http_stream is not None
    return item.http_stream


def message(**fields: object) -> WsMessage:
    item = parse_json({"channel": "c", "ws-message": _dashed(fields)})
    assert item.ws_message is not None
    return item.ws_message


def _dashed(fields: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


class TestPublishBody:
    def test_every_item_is_read_in_order(self) -> None:
        items = parse_publish_body(
            body({"channel": "a", "formats": STREAM}, {"channel": "b", **STREAM})
        )
        assert [item.channel for item in items] == ["a", "b"]
        assert items[0].http_stream == HttpStream(Action.SEND, b"x")

    def test_no_items_are_fine(self) -> None:
        assert parse_publish_body(b' \n{"items":[]}\n') == ()

    def test_a_raw_newline_in_a_string_is_tolerated(self) -> None:
        data = b'{"items":[{"channel":"a","http-stream":{"content":"x\n"}}]}'
        assert parse_publish_body(data)[0].http_stream == HttpStream(Action.SEND, b"x\n")

    @pytest.mark.parametrize(
        ("data", "line"),
        [
            (b"", "Body is not valid JSON."),
            (b"{", "Body is not valid JSON."),
            (b"null", "Body is not valid JSON."),
            (b'"items"', "Body is not valid JSON."),
            (b"[]", "Invalid format."),
            (b"{}", "Invalid format: object does not contain 'items'"),
            (b'{"items":null}', "Invalid format: object contains 'items' with wrong type"),
            (b'{"items":{}}', "Invalid format: object contains 'items' with wrong type"),
            (b'{"items":[1]}', "Invalid format: publish item object is not an object"),
            (
                b'{"items":[{"channel":"a","http-stream":{"action":"x"}}]}',
                "Invalid format: ",
            ),
        ],
    )
    def test_the_error_is_the_line_to_answer(self, data: bytes, line: str) -> None:
        with pytest.raises(ItemError) as caught:
            parse_publish_body(data)
        assert str(caught.value) == line

    def test_one_bad_item_refuses_all(self) -> None:
        with pytest.raises(ItemError, match="no formats specified"):
            parse_publish_body(body({"channel": "a", **STREAM}, {"channel": "b"}))


class TestItem:
    def test_the_smallest_item(self) -> None:
        assert parse_json({"channel": "", "formats": STREAM}) == Item(
            channel="", http_stream=HttpStream(Action.SEND, b"x")
        )

    def test_every_field(self) -> None:
        item = parse_json(
            {
                "channel": "c",
                "id": "",
                "prev-id": "4",
                "formats": {
                    "http-response": {"body": "r"},
                    "http-stream": {"content": "s"},
                    "ws-message": {"content": "w"},
                    "another": 1,
                },
                "meta": {"sender": "me"},
                "size": "7",
                "no-seq": True,
            }
        )
        assert item == Item(
            "c",
            "",
            "4",
            HttpResponse(Action.SEND, 200, b"OK", (), b"r", None, None),
            HttpStream(Action.SEND, b"s", None),
            WsMessage(Action.SEND, WsType.TEXT, b"w", None, b"", None),
            {"sender": "me"},
            7,
            True,
        )

    def test_formats_may_stand_in_the_item_itself(self) -> None:
        item = parse_json({"channel": "c", "ws-message": {"content": "w"}})
        assert item.ws_message is not None
        assert item.http_stream is None

    def test_unknown_formats_are_ignored_and_count_as_formats(self) -> None:
        assert parse_json({"channel": "c", "formats": {"x": 1}}) == Item("c")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"channel": None}, "publish item object contains 'channel' with wrong type"),
            ({"id": 1}, "publish item object contains 'id' with wrong type"),
            ({"id": None}, "publish item object contains 'id' with wrong type"),
            ({"prev-id": []}, "publish item object contains 'prev-id' with wrong type"),
            ({"formats": None}, "publish item object contains 'formats' with wrong type"),
            ({"formats": []}, "publish item object contains 'formats' with wrong type"),
            ({"formats": {}}, "no formats specified"),
            ({"meta": []}, "publish item object contains 'meta' with wrong type"),
            ({"meta": {"k": 1}}, "'meta' contains 'k' with wrong type"),
            ({"size": None}, "publish item object contains 'size' with wrong type"),
            ({"size": -1}, "publish item object contains 'size' with invalid value"),
            ({"no-seq": 1}, "publish item object contains 'no-seq' with wrong type"),
            ({"no-seq": None}, "publish item object contains 'no-seq' with wrong type"),
        ],
    )
    def test_a_field_of_another_type_is_refused(
        self, fields: dict[str, object], message: str
    ) -> None:
        assert refused({"channel": "c", "formats": STREAM, **fields}) == message

    def test_an_item_needs_a_channel_and_a_format(self) -> None:
        assert refused({}) == "publish item object does not contain 'channel'"
        assert refused({"channel": "c"}) == "no formats specified"
        assert refused("c") == "publish item object is not an object"

    @pytest.mark.parametrize("name", ["http-response", "http-stream", "ws-message"])
    def test_a_format_is_an_object_with_a_known_action(self, name: str) -> None:
        assert refused({"channel": "c", name: None}) == f"'{name}' is not an object"
        assert refused({"channel": "c", name: {"action": 1}}) == (
            f"'{name}' contains 'action' with wrong type"
        )
        for action in ("", "Send", "x"):
            assert refused({"channel": "c", name: {"action": action}}) == ""

    @pytest.mark.parametrize("name", ["http-response", "http-stream", "ws-message"])
    def test_content_filters_are_a_list_of_strings(self, name: str) -> None:
        fields: dict[str, Any] = {"content": "", "body": ""}
        wrong: list[object] = [None, "a", {}]
        for value in wrong:
            fields["content-filters"] = value
            assert refused({"channel": "c", name: fields}) == (
                f"'{name}' contains 'content-filters' with wrong type"
            )
        fields["content-filters"] = ["a", 1]
        assert refused({"channel": "c", name: fields}) == (
            "content-filters contains element with wrong type"
        )

    @pytest.mark.parametrize("action", ["hint", "refresh"])
    def test_only_send_reads_the_other_fields(self, action: str) -> None:
        item = parse_json(
            {
                "channel": "c",
                "http-response": {"action": action, "code": -1},
                "http-stream": {"action": action, "content": 1},
                "ws-message": {"action": action, "type": 1, "code": -1},
            }
        )
        assert item.http_response == HttpResponse(Action(action))
        assert item.http_stream == HttpStream(Action(action))
        assert item.ws_message == WsMessage(Action(action))


class TestHttpResponse:
    def test_a_body_alone_is_a_200(self) -> None:
        assert response(body="é") == HttpResponse(Action.SEND, 200, b"OK", (), "é".encode())

    def test_every_field(self) -> None:
        assert response(
            code=404,
            reason="Nope",
            headers=[["A", "1"], ["a", "2"]],
            body="x",
            content_filters=["build-id"],
        ) == HttpResponse(
            Action.SEND, 404, b"Nope", ((b"A", b"1"), (b"a", b"2")), b"x", None, ("build-id",)
        )

    @pytest.mark.parametrize("fields", [{"code": 404}, {"code": "404", "reason": ""}])
    def test_a_missing_reason_comes_from_the_table(self, fields: dict[str, object]) -> None:
        assert response(body="", **fields).reason == b"Not Found"

    def test_a_binary_body_wins_over_text_and_text_over_a_patch(self) -> None:
        assert response(body_bin="eHh4", body=1).body == b"xxx"
        assert response(body="x", body_patch=1) == HttpResponse(Action.SEND, body=b"x")

    def test_a_patch_is_kept_for_the_body_that_is_held(self) -> None:
        patch = [{"op": "add", "path": "/a", "value": None}]
        assert response(body_patch=patch).body_patch == patch

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({}, MISSING_BODY),
            ({"body": None}, "'http-response' contains 'body' with wrong type"),
            ({"body-bin": None, "body": ""}, "'http-response' contains 'body-bin' with wrong type"),
            ({"body-patch": {}}, "'http-response' contains 'body-patch' with wrong type"),
            ({"code": 1000}, "'http-response' contains 'code' with invalid value"),
            ({"code": []}, "'http-response' contains 'code' with wrong type"),
            ({"reason": 1}, "'http-response' contains 'reason' with wrong type"),
            ({"headers": 1}, "'http-response' contains 'headers' with wrong type"),
        ],
    )
    def test_refusals(self, fields: dict[str, object], message: str) -> None:
        assert refused({"channel": "c", "http-response": fields}) == message


class TestHttpStream:
    def test_content(self) -> None:
        assert stream(content="é", content_filters=[]) == HttpStream(Action.SEND, "é".encode(), ())

    def test_binary_content_wins(self) -> None:
        assert stream(content_bin="eA", content=1).content == b"x"

    def test_close(self) -> None:
        assert stream(action="close", content=1) == HttpStream(Action.CLOSE)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({}, "'http-stream' does not contain 'content' or 'content-bin'"),
            ({"content": 1}, "'http-stream' contains 'content' with wrong type"),
            ({"content-bin": None}, "'http-stream' contains 'content-bin' with wrong type"),
        ],
    )
    def test_refusals(self, fields: dict[str, object], message: str) -> None:
        assert refused({"channel": "c", "http-stream": fields}) == message


class TestWsMessage:
    def test_content_implies_text_and_binary_content_binary(self) -> None:
        assert message(content="x") == WsMessage(Action.SEND, WsType.TEXT, b"x")
        assert message(content_bin="eA==", content=1) == WsMessage(Action.SEND, WsType.BINARY, b"x")

    @pytest.mark.parametrize("kind", list(WsType))
    def test_a_type_that_is_given_wins(self, kind: WsType) -> None:
        assert message(type=kind.value, content="x").type is kind
        assert message(type=kind.value, content_bin="eA==").type is kind

    @pytest.mark.parametrize("kind", ["ping", "pong"])
    def test_pings_and_pongs_may_be_empty_and_are_small(self, kind: str) -> None:
        assert message(type=kind) == WsMessage(Action.SEND, WsType(kind), b"")
        assert len(message(type=kind, content="x" * 125).content) == 125
        assert refused({"channel": "c", "ws-message": {"type": kind, "content": "x" * 126}}) == (
            f"'ws-message' contains 'content' over 125 bytes for {kind}"
        )

    def test_close_takes_a_code_and_a_reason(self) -> None:
        assert message(action="close", code=4000, reason="é") == WsMessage(
            Action.CLOSE, code=4000, reason="é".encode()
        )

    def test_the_code_of_a_close_is_cut_to_16_bits_and_text_may_be_one(self) -> None:
        assert message(action="close", code=65536 + 1001).code == 1001
        assert message(action="close", code="1001").code == 1001
        assert message(action="close", code="x").code == 0

    def test_a_reason_without_a_code_is_dropped(self) -> None:
        assert message(action="close", reason="bye") == WsMessage(Action.CLOSE)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({}, MISSING_CONTENT),
            ({"type": "binary"}, MISSING_CONTENT),
            ({"type": "close"}, "'ws-message' contains 'type' with unknown value"),
            ({"type": None}, "'ws-message' contains 'type' with wrong type"),
            ({"content": None}, "'ws-message' contains 'content' with wrong type"),
            ({"content-bin": 1}, "'ws-message' contains 'content-bin' with wrong type"),
            ({"action": "close", "code": -1}, "'ws-message' contains 'code' with invalid value"),
            ({"action": "close", "code": None}, "'ws-message' contains 'code' with wrong type"),
            ({"action": "close", "reason": 1}, "'ws-message' contains 'reason' with wrong type"),
            (
                {"action": "close", "code": 1000, "reason": "é" * 62},
                "'ws-message' contains 'reason' over 123 bytes",
            ),
        ],
    )
    def test_refusals(self, fields: dict[str, object], message: str) -> None:
        assert refused({"channel": "c", "ws-message": fields}) == message


class TestTnetstring:
    def test_null_is_as_if_absent(self) -> None:
        item = parse_tnetstring(
            {
                b"channel": b"c",
                b"id": None,
                b"size": None,
                b"formats": {
                    b"http-stream": {b"action": None, b"content": b"x", b"content-filters": None},
                    b"ws-message": None,
                },
            }
        )
        assert item == Item("c", http_stream=HttpStream(Action.SEND, b"x"))

    def test_null_in_a_patch_is_null(self) -> None:
        item = parse_tnetstring(
            {b"channel": b"c", b"http-response": {b"body-patch": [{b"op": b"add", b"value": None}]}}
        )
        assert item.http_response is not None
        assert item.http_response.body_patch == [{"op": "add", "value": None}]

    def test_strings_may_hold_any_bytes(self) -> None:
        item = parse_tnetstring(
            {
                b"channel": b"\xff",
                b"http-response": {b"body": b"\xfe\xff", b"headers": [[b"A", b"\xe9"]]},
                b"http-stream": {b"content": b"\x80\x00"},
                b"ws-message": {b"content-bin": b"\xc3(", b"content": 1},
            }
        )
        assert item.channel == "\udcff"
        assert item.http_response is not None
        assert item.http_response.body == b"\xfe\xff"
        assert item.http_response.headers == ((b"A", b"\xe9"),)
        assert item.http_stream == HttpStream(Action.SEND, b"\x80\x00")
        assert item.ws_message == WsMessage(Action.SEND, WsType.BINARY, b"\xc3(")

    def test_only_websocket_messages_know_binary_content(self) -> None:
        assert refused_frame({"channel": "c", "http-stream": {"content-bin": "x"}}) == (
            "'http-stream' does not contain 'content'"
        )
        assert refused_frame({"channel": "c", "http-response": {"body-bin": "x"}}) == (
            "'http-response' does not contain 'body' or 'body-patch'"
        )

    def test_an_item_is_a_dictionary_with_formats(self) -> None:
        assert refused_frame([]) == "publish item object is not an object"
        assert refused_frame({"channel": "c", "formats": {"http-stream": None}}) == (
            "no formats specified"
        )
        assert refused_frame({"channel": "c", "formats": None}) == "no formats specified"


class TestFrame:
    FIELDS: dict[str, object] = {"channel": "c", "http-stream": {"content": "x"}}  # noqa: RUF012
    ITEM = Item("c", http_stream=HttpStream(Action.SEND, b"x"))

    def test_the_first_letter_tells_the_form(self) -> None:
        assert parse_frame(b"J" + json.dumps(self.FIELDS).encode()) == self.ITEM
        assert parse_frame(b"T" + tnetstring.dumps(self.FIELDS)) == self.ITEM
        assert parse_frame(tnetstring.dumps(self.FIELDS)) == self.ITEM

    @pytest.mark.parametrize("form", ["J", "T"])
    def test_a_topic_is_the_channel_unless_it_is_empty(self, form: str) -> None:
        def frame(fields: dict[str, object]) -> bytes:
            text = json.dumps(fields).encode() if form == "J" else tnetstring.dumps(fields)
            return form.encode() + text

        assert parse_frame(frame(self.FIELDS), b"topic\xff").channel == "topic\udcff"
        assert parse_frame(frame(self.FIELDS), b"").channel == "c"
        del (unnamed := dict(self.FIELDS))["channel"]
        assert parse_frame(frame(unnamed), b"t").channel == "t"
        with pytest.raises(ItemError, match="does not contain 'channel'"):
            parse_frame(frame(unnamed), b"")

    @pytest.mark.parametrize("payload", [b"", b"J", b"J{", b"T", b"x", b"J1", b"T1:x,", b"{}"])
    def test_other_payloads_are_refused(self, payload: bytes) -> None:
        with pytest.raises(ItemError):
            parse_frame(payload)


text = st.text(st.characters(codec="utf-8"), max_size=8)
names = st.sampled_from(
    [
        "channel",
        "id",
        "prev-id",
        "formats",
        "meta",
        "size",
        "no-seq",
        "http-response",
        "http-stream",
        "ws-message",
        "action",
        "code",
        "reason",
        "headers",
        "body",
        "body-bin",
        "body-patch",
        "content",
        "content-bin",
        "content-filters",
        "type",
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 1200)
    | text
    | st.sampled_from(["send", "hint", "close", "refresh", "text", "binary", "ping"])
)
garbage = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | text, inner, max_size=4),
    max_leaves=15,
)

filters = st.lists(text, max_size=2)
streams = st.fixed_dictionaries({"content": text}, optional={"content-filters": filters})
messages = st.fixed_dictionaries(
    {"content": text},
    optional={"type": st.sampled_from(["text", "binary", "ping"]), "content-filters": filters},
) | st.fixed_dictionaries(
    {"action": st.just("close")}, optional={"code": st.integers(0, 70000), "reason": text}
)
responses = st.fixed_dictionaries(
    {"body": text},
    optional={
        "code": st.integers(0, 999),
        "reason": text.filter(lambda value: not set(value) & set("\r\n\0")),
        "headers": st.dictionaries(st.sampled_from(["A", "b"]), st.sampled_from(["", "é"])),
    },
) | st.fixed_dictionaries(
    {"body-patch": st.lists(st.dictionaries(text, st.booleans() | text, max_size=2), max_size=2)}
)
items = st.fixed_dictionaries(
    {
        "channel": text,
        "formats": st.fixed_dictionaries(
            {"other": st.just(1)},
            optional={"http-stream": streams, "ws-message": messages, "http-response": responses},
        ),
    },
    optional={
        "id": text,
        "prev-id": text,
        "meta": st.dictionaries(text, text, max_size=2),
        "size": st.integers(0, 2**31 - 1),
        "no-seq": st.booleans(),
    },
)


@settings(max_examples=200, deadline=None)
@given(items)
def test_json_and_tnetstrings_say_the_same(fields: dict[str, object]) -> None:
    as_json = parse_frame(b"J" + json.dumps(fields).encode())
    assert parse_frame(b"T" + tnetstring.dumps(fields)) == as_json
    assert parse_publish_body(body(fields)) == (as_json,)


@settings(max_examples=300, deadline=None)
@given(garbage)
def test_any_value_is_an_item_or_our_error(value: object) -> None:
    for payload in (b"J" + json.dumps(value).encode(), b"T" + tnetstring.dumps(value)):
        try:
            parse_frame(payload)
        except ItemError as error:
            str(error).encode()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"J", b"T"]))
def test_any_bytes_raise_only_our_error(data: bytes, form: bytes) -> None:
    for parse in (parse_publish_body, lambda data: parse_frame(form + data)):
        try:
            parse(data)
        except ItemError as error:
            str(error).encode()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_binary_content_arrives_as_it_was_published(data: bytes) -> None:
    encoded = base64.b64encode(data).decode()
    assert stream(content_bin=encoded).content == data
    item = parse_frame(tnetstring.dumps({"channel": "c", "http-stream": {"content": data}}))
    assert item.http_stream == HttpStream(Action.SEND, data)


@pytest.mark.parametrize("name", ["channel", "id", "prev-id"])
def test_names_are_remembered_so_they_are_bounded(name: str) -> None:
    fields = {"channel": "c", "http-stream": {"content": ""}}
    parse_json({**fields, name: "x" * (NAMES_MAX - 1)})
    with pytest.raises(ItemError, match="are longer than 8192 characters"):
        parse_json({**fields, name: "x" * (NAMES_MAX + 1)})


def test_the_size_of_an_item_is_that_of_its_contents() -> None:
    response = {"body": "12345", "headers": [["A", "bcd"]]}
    formats = {"http-stream": {"content": "123"}, "http-response": response}
    item = parse_json({"channel": "c", "formats": {**formats, "ws-message": {"content": "12"}}})
    assert content_size(item) == 10
    assert content_size(item._replace(http_stream=None, http_response=None)) == 2


def test_an_item_occupies_more_than_its_contents() -> None:
    def size(**formats: object) -> int:
        return footprint(parse_json({"channel": "c", "formats": formats}))

    response = {"body": "12345", "headers": [["A", "bcd"]]}
    name = len("c")
    assert size(**{"http-stream": {"content": "123"}}) == name + 3
    assert size(**{"http-response": response}) == name + 5 + 4
    assert size(**{"ws-message": {"content": "1234567"}}) == name + 7
    assert size(**{"http-stream": {"content": "123"}, "http-response": response}) == name + 12
    patch = [{"op": "add", "path": "/a", "value": "x" * 1000}]
    assert size(**{"http-response": {"body-patch": patch}}) > 1000


def test_a_patch_may_be_as_deep_as_json_allows() -> None:
    deep: object = "x" * 1000
    for _ in range(1000):
        deep = [deep]
    patch = {"body-patch": [{"op": "add", "path": "/a", "value": deep}]}
    item = parse_json({"channel": "c", "http-response": patch})
    assert footprint(item) > 1000
