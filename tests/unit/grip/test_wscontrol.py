"""Control messages of backends: what each means, and that all others are ignored."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.grip.fields import FILTERS_MAX, INTEGER_MAX
from gripproxy.grip.item import NAMES_MAX, PING_MAX, Action, WsMessage, WsType
from gripproxy.grip.terms import KeepAliveMode
from gripproxy.grip.wscontrol import (
    Control,
    Detach,
    FlushDelayed,
    KeepAlive,
    SendDelayed,
    SetMeta,
    SetSession,
    Subscribe,
    Unsubscribe,
    parse,
)

IDLE, INTERVAL = KeepAliveMode.IDLE, KeepAliveMode.INTERVAL
WRONG_TEXTS: list[object] = [None, True, 1, 1.5, [], ["x"], {}]

FIELDS = [
    *("channel", "filters", "id", "name", "value"),
    *("content", "content-bin", "message-type", "timeout", "mode"),
]
value: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(["x", "", "ping", "interval", "inf", "-1", "7", "\ud800", None, [], {}]),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.text(max_size=3), max_size=2),
)


def sent(kind: WsType, content: bytes) -> WsMessage:
    """What a client is sent."""
    return WsMessage(Action.SEND, kind, content)


def read(kind: object, **fields: object) -> Control | None:
    """The control message with these fields, whose underscores stand for dashes."""
    dashed = {name.replace("_", "-"): value for name, value in fields.items()}
    return parse(json.dumps({"type": kind, **dashed}).encode())


def keep_alive(**fields: object) -> KeepAlive | None:
    control = read("keep-alive", **fields)
    assert control is None or isinstance(control, KeepAlive)
    return control


def send_delayed(**fields: object) -> SendDelayed | None:
    control = read("send-delayed", **fields)
    assert control is None or isinstance(control, SendDelayed)
    return control


def timeout(**fields: object) -> int | None:
    """The timeout of a keep-alive; None: it is ignored."""
    control = keep_alive(content="x", **fields)
    return None if control is None else control.timeout


class TestMessage:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"detach",
            b"{",
            b"null",
            b'"detach"',
            b'["detach"]',
            b"{}",
            b'{"type":"detach"} x',
            b'{"type":"detach","x":NaN}',
            b'{"type":"\xff"}',
            b'{"type":"Detach"}',
            b'{"type":"auto-respond"}',
            b'{"type":""}',
            b"[" * 100_000,
            b'{"type":"detach","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        ],
    )
    def test_what_is_no_object_of_a_known_type_is_ignored(self, data: bytes) -> None:
        assert parse(data) is None

    @pytest.mark.parametrize("kind", WRONG_TEXTS)
    def test_a_type_is_a_string(self, kind: object) -> None:
        assert read(kind) is None

    def test_unknown_fields_do_not_matter(self) -> None:
        assert read("detach", channel=1, message_type=2) == Detach()
        assert read("flush-delayed", timeout=-1) == FlushDelayed()

    def test_json_is_read_as_leniently_as_elsewhere(self) -> None:
        data = b'\xef\xbb\xbf {"type":"unsubscribe",\n"channel":"a\tb\\ud800"} '
        assert parse(data) == Unsubscribe("a\tb?")

    def test_messages_without_fields_are_told_apart(self) -> None:
        assert read("detach") != read("flush-delayed")

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=50))
    def test_any_bytes_are_read(self, data: bytes) -> None:
        parse(data)

    @settings(max_examples=150, deadline=None)
    @given(
        st.sampled_from(["subscribe", "session", "set-meta", "keep-alive", "send-delayed"]),
        st.dictionaries(st.sampled_from(FIELDS), value, max_size=4),
    )
    def test_whatever_is_read_is_fit_for_use(self, kind: str, fields: dict[str, object]) -> None:
        control = parse(json.dumps({**fields, "type": kind}).encode())
        if isinstance(control, KeepAlive | SendDelayed):
            assert 1 <= control.timeout <= INTEGER_MAX
        if isinstance(control, Subscribe):
            assert control.channel
            control.channel.encode()


class TestSubscriptions:
    def test_a_channel_with_or_without_filters(self) -> None:
        assert read("subscribe", channel="a") == Subscribe("a", ())
        assert read("subscribe", channel="ä", filters=["x", ""]) == Subscribe("ä", ("x", ""))
        assert read("unsubscribe", channel="a", filters=1) == Unsubscribe("a")

    def test_too_many_filters_are_for_the_session_to_refuse(self) -> None:
        filters = ["x"] * (FILTERS_MAX + 1)
        assert read("subscribe", channel="a", filters=filters) == Subscribe("a", tuple(filters))

    @pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
    @pytest.mark.parametrize("channel", ["", "x" * (NAMES_MAX + 1), *WRONG_TEXTS])
    def test_a_channel_is_a_string_of_bounded_length(self, kind: str, channel: object) -> None:
        assert read(kind, channel=channel) is None

    def test_a_channel_may_be_as_long_as_a_published_one(self) -> None:
        assert read("subscribe", channel="x" * NAMES_MAX) == Subscribe("x" * NAMES_MAX, ())

    @pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
    def test_a_channel_is_needed(self, kind: str) -> None:
        assert read(kind) is None

    @pytest.mark.parametrize("filters", [None, "x", {}, 1, [1], ["x", None]])
    def test_filters_are_a_list_of_strings(self, filters: object) -> None:
        assert read("subscribe", channel="a", filters=filters) is None


class TestSessionAndMeta:
    def test_a_session_has_an_id_or_loses_it(self) -> None:
        assert read("session", id="s") == SetSession("s")
        assert read("session", id="") == SetSession(None)
        assert read("session") == SetSession(None)

    def test_meta_has_a_value_or_goes(self) -> None:
        assert read("set-meta", name="user", value="me") == SetMeta("user", "me")
        assert read("set-meta", name="user", value="") == SetMeta("user", "")
        assert read("set-meta", name="user") == SetMeta("user", None)

    @pytest.mark.parametrize("wrong", WRONG_TEXTS)
    def test_ids_names_and_values_are_strings(self, wrong: object) -> None:
        assert read("session", id=wrong) is None
        assert read("set-meta", name=wrong, value="v") is None
        assert read("set-meta", name="n", value=wrong) is None

    def test_meta_needs_a_name(self) -> None:
        assert read("set-meta", value="v") is None
        assert read("set-meta", name="", value="v") is None
        assert read("set-meta", name="n" * (NAMES_MAX + 1), value="v") is None


class TestContent:
    def test_text_in_utf_8_is_the_default(self) -> None:
        assert keep_alive(content="ä") == KeepAlive(sent(WsType.TEXT, b"\xc3\xa4"), 55, IDLE)
        assert send_delayed(content="ä") == SendDelayed(sent(WsType.TEXT, b"\xc3\xa4"), 1)

    @pytest.mark.parametrize("kind", list(WsType))
    def test_every_kind_of_message(self, kind: WsType) -> None:
        message = sent(kind, b"x")
        assert keep_alive(content="x", message_type=kind.value) == KeepAlive(message, 55, IDLE)
        assert send_delayed(content="x", message_type=kind.value) == SendDelayed(message, 1)

    def test_binary_content_wins_and_is_text_unless_told_otherwise(self) -> None:
        encoded = base64.b64encode(b"\xffx").decode()
        assert send_delayed(content="a", content_bin=encoded) == SendDelayed(
            sent(WsType.TEXT, b"\xffx"), 1
        )
        assert send_delayed(content=1, content_bin=encoded, message_type="binary") == SendDelayed(
            sent(WsType.BINARY, b"\xffx"), 1
        )

    def test_a_keep_alive_without_content_is_its_end(self) -> None:
        assert keep_alive() == KeepAlive(None, 55, IDLE)
        assert keep_alive(message_type="ping", mode="interval") == KeepAlive(None, 55, INTERVAL)

    def test_empty_content_is_content(self) -> None:
        assert keep_alive(content="", message_type="ping") == KeepAlive(
            sent(WsType.PING, b""), 55, IDLE
        )
        assert keep_alive(content_bin="") == KeepAlive(sent(WsType.TEXT, b""), 55, IDLE)

    def test_a_delayed_message_without_content_is_empty(self) -> None:
        assert send_delayed() == SendDelayed(sent(WsType.TEXT, b""), 1)
        assert send_delayed(message_type="pong") == SendDelayed(sent(WsType.PONG, b""), 1)

    @pytest.mark.parametrize("kind", ["keep-alive", "send-delayed"])
    @pytest.mark.parametrize("wrong", WRONG_TEXTS)
    def test_content_and_its_type_are_strings(self, kind: str, wrong: object) -> None:
        assert read(kind, content=wrong) is None
        assert read(kind, content="x", content_bin=wrong) is None
        assert read(kind, content="x", message_type=wrong) is None

    @pytest.mark.parametrize("name", ["", "Text", "close"])
    def test_other_types_of_messages_are_unknown(self, name: str) -> None:
        assert keep_alive(message_type=name) is None
        assert send_delayed(message_type=name) is None

    @pytest.mark.parametrize("name", ["ping", "pong"])
    def test_pings_and_pongs_that_no_client_could_take_are_ignored(self, name: str) -> None:
        longest = keep_alive(content="x" * PING_MAX, message_type=name)
        assert longest is not None
        assert longest.message == sent(WsType(name), b"x" * PING_MAX)
        assert keep_alive(content="x" * (PING_MAX + 1), message_type=name) is None
        assert send_delayed(content="ä" * (PING_MAX // 2 + 1), message_type=name) is None

    def test_other_messages_may_be_longer(self) -> None:
        assert send_delayed(content="x" * 1000, message_type="binary") == SendDelayed(
            sent(WsType.BINARY, b"x" * 1000), 1
        )


class TestTimeout:
    @pytest.mark.parametrize(
        ("given_value", "seconds"),
        [
            (20, 20),
            ("20", 20),
            (19.5, 20),
            (1.2, 1),
            (0, 55),
            ("0", 55),
            (0.4, 55),
            (-0.4, 55),
            ("", 55),
            ("x", 55),
            ("1.5", 55),
            ("inf", 55),
            ("nan", 55),
            ("1e9", 55),
            ("9" * 5000, 55),
            (INTEGER_MAX, INTEGER_MAX),
        ],
    )
    def test_seconds_are_a_number_or_text_with_one(self, given_value: object, seconds: int) -> None:
        assert timeout(timeout=given_value) == seconds

    @pytest.mark.parametrize(
        "given_value",
        [-1, "-1", -0.6, True, False, None, [], {}, INTEGER_MAX + 1, 10**30, 1e300, -1e300],
    )
    def test_negative_huge_and_mistyped_ones_are_ignored(self, given_value: object) -> None:
        assert timeout(timeout=given_value) is None
        assert send_delayed(content="x", timeout=given_value) is None

    def test_the_default_depends_on_the_type(self) -> None:
        assert timeout() == 55
        delayed = send_delayed(content="x", timeout=0)
        assert delayed is not None
        assert delayed.timeout == 1

    def test_it_does_not_matter_without_content(self) -> None:
        assert keep_alive(timeout=-1) == KeepAlive(None, 55, IDLE)
        assert send_delayed(timeout=[]) == SendDelayed(sent(WsType.TEXT, b""), 1)
        assert send_delayed(timeout=9) == SendDelayed(sent(WsType.TEXT, b""), 1)


class TestMode:
    @pytest.mark.parametrize(
        ("name", "mode"),
        [("interval", INTERVAL), ("idle", IDLE), ("", IDLE), ("Interval", IDLE), ("x", IDLE)],
    )
    def test_every_mode_but_interval_is_idle(self, name: str, mode: KeepAliveMode) -> None:
        control = keep_alive(content="x", mode=name)
        assert control is not None
        assert control.mode is mode

    @pytest.mark.parametrize("wrong", WRONG_TEXTS)
    def test_a_mode_is_a_string(self, wrong: object) -> None:
        assert keep_alive(content="x", mode=wrong) is None
        assert keep_alive(mode=wrong) is None

    def test_delayed_messages_have_none(self) -> None:
        assert send_delayed(content="x", mode=1) == SendDelayed(sent(WsType.TEXT, b"x"), 1)
