"""The `grip` extension: which prefix a backend sets, and what becomes of its messages."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.grip.wsextension import (
    CONTROL_MAX,
    MessageFilter,
    grip_extension,
    message_prefix,
)
from gripproxy.websocket.frames import BINARY, CONT, TEXT, Frame

Output = Frame | bytes


def feed(messages: MessageFilter, frames: list[Frame]) -> list[Output]:
    """All that comes out."""
    fed = [messages.feed(frame) for frame in frames]
    return [output for output in fed if output is not None]


def filtered(prefix: bytes, *frames: Frame) -> list[Output]:
    return feed(MessageFilter(prefix), list(frames))


def fragments(opcode: int, *payloads: bytes) -> list[Frame]:
    """A message in as many frames as there are payloads."""
    last = len(payloads) - 1
    return [
        Frame(CONT if index else opcode, payload, index == last)
        for index, payload in enumerate(payloads)
    ]


def split(opcode: int, message: bytes, cuts: list[int]) -> list[Frame]:
    """`message` in frames that end at `cuts`."""
    places = [0, *sorted(min(cut, len(message)) for cut in cuts), len(message)]
    return fragments(
        opcode,
        *(message[start:end] for start, end in pairwise(places)),
    )


class TestHeader:
    @pytest.mark.parametrize(
        ("values", "prefix"),
        [
            ([b"grip"], b"m:"),
            ([b" grip "], b"m:"),
            ([b"grip;"], b"m:"),
            ([b"grip; other=1"], b"m:"),
            ([b"permessage-deflate; a=1, grip"], b"m:"),
            ([b"permessage-deflate", b"grip; message-prefix=x"], b"x"),
            ([b"grip; message-prefix=x:y"], b"x:y"),
            ([b'grip; message-prefix="x, y;z"'], b"x, y;z"),
            ([b'grip ; a="="; message-prefix="\\"q\\\\"'], b'"q\\'),
            ([b'grip; message-prefix=""'], b""),
            ([b"grip; message-prefix"], b""),
            ([b"grip; message-prefix=; a=1"], b""),
            ([b"grip; message-prefix=x="], b"x="),
            ([b'grip; message-prefix="x="'], b"x="),
            ([b"grip; Message-Prefix=x"], b"m:"),
            ([b"grip; message-prefix=x; message-prefix=y"], b"y"),
            ([b"grip; message-prefix=x, grip; message-prefix=y"], b"x"),
        ],
    )
    def test_the_prefix_is_what_the_extension_says(
        self, values: list[bytes], prefix: bytes
    ) -> None:
        assert message_prefix(values) == prefix

    @pytest.mark.parametrize(
        "values",
        [
            [],
            [b""],
            [b"Grip"],
            [b"GRIP"],
            [b"gripx"],
            [b"permessage-deflate; grip"],
            [b'x="grip, grip"'],
            [b"grip; message-prefix="],
            [b"grip; message-prefix= "],
            [b"grip; a=1; b="],
            [b'grip; message-prefix="m:'],
            [b'grip; message-prefix="m:\\"'],
            [b'grip; message-prefix="m:, grip'],
            [b"grip; message-prefix=, grip"],
            [b'grip; message-prefix="m:', b"grip"],
        ],
    )
    def test_without_a_readable_extension_there_is_none(self, values: list[bytes]) -> None:
        assert message_prefix(values) is None
        assert grip_extension(values) is None

    def test_the_element_is_handed_on_as_it_came(self) -> None:
        assert grip_extension([b"grip"]) == b"grip"
        values = [b'x; a=1,  grip ; message-prefix="a,b"; c , y']
        assert grip_extension(values) == b'grip ; message-prefix="a,b"; c'

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=20))
    def test_any_prefix_can_be_quoted(self, prefix: bytes) -> None:
        quoted = prefix.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        assert message_prefix([b'grip; message-prefix="' + quoted + b'"']) == prefix

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.sampled_from(list(b'grip;=",\\ m')), max_size=12).map(bytes),
        st.sampled_from([b"", b"grip", b"grip;", b"grip; message-prefix", b"grip;message-prefix="]),
    )
    def test_any_header_is_read(self, value: bytes, start: bytes) -> None:
        values = [start + value]
        assert (message_prefix(values) is None) == (grip_extension(values) is None)


class TestWholeMessages:
    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_the_prefix_is_stripped(self, opcode: int) -> None:
        assert filtered(b"m:", Frame(opcode, b"m:hello")) == [Frame(opcode, b"hello")]
        assert filtered(b"m:", Frame(opcode, b"m:")) == [Frame(opcode, b"")]
        assert filtered(b"long prefix", Frame(opcode, b"long prefix:")) == [Frame(opcode, b":")]

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    @pytest.mark.parametrize("payload", [b"", b"m", b"M:x", b"x", b" m:x"])
    def test_messages_without_it_are_dropped(self, opcode: int, payload: bytes) -> None:
        assert filtered(b"m:", Frame(opcode, payload), Frame(opcode, b"m:x")) == [
            Frame(opcode, b"x")
        ]

    @pytest.mark.parametrize("prefix", [b"m:", b"", b"c", b"c:", b"c:x"])
    def test_text_with_c_is_control_whatever_the_prefix_is(self, prefix: bytes) -> None:
        assert filtered(prefix, Frame(TEXT, b"c:x{}")) == [b"x{}"]
        assert filtered(prefix, Frame(TEXT, b"c:")) == [b""]

    def test_binary_with_c_is_a_message(self) -> None:
        assert filtered(b"m:", Frame(BINARY, b"c:{}")) == []
        assert filtered(b"", Frame(BINARY, b"c:{}")) == [Frame(BINARY, b"c:{}")]
        assert filtered(b"c:", Frame(BINARY, b"c:{}")) == [Frame(BINARY, b"{}")]

    def test_an_empty_prefix_relays_everything_else(self) -> None:
        for payload in (b"", b"c", b"m:x"):
            assert filtered(b"", Frame(TEXT, payload)) == [Frame(TEXT, payload)]

    def test_too_long_a_control_message_is_dropped(self) -> None:
        longest = Frame(TEXT, b"c:" + b"x" * CONTROL_MAX)
        longer = Frame(TEXT, longest.payload + b"x")
        assert filtered(b"", longest, longer, Frame(TEXT, b"c:y")) == [b"x" * CONTROL_MAX, b"y"]


class TestFragments:
    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_pieces_are_relayed_as_they_come(self, opcode: int) -> None:
        messages = MessageFilter(b"m:")
        pieces = fragments(opcode, b"m:a", b"b", b"c")
        assert messages.feed(pieces[0]) == Frame(opcode, b"a", False)
        assert messages.feed(pieces[1]) == Frame(CONT, b"b", False)
        assert messages.feed(pieces[2]) == Frame(CONT, b"c", True)
        assert messages.feed(Frame(opcode, b"m:d")) == Frame(opcode, b"d")

    def test_a_split_prefix_is_put_together(self) -> None:
        assert filtered(b"m:", *fragments(TEXT, b"", b"m", b":a", b"b")) == [
            Frame(TEXT, b"a", False),
            Frame(CONT, b"b", True),
        ]

    def test_empty_pieces_are_not_relayed_but_for_the_last(self) -> None:
        assert filtered(b"m:", *fragments(TEXT, b"m:", b"", b"a", b"", b"")) == [
            Frame(TEXT, b"a", False),
            Frame(CONT, b"", True),
        ]

    @pytest.mark.parametrize("payloads", [(b"m:", b""), (b"m", b":"), (b"", b"", b"m:", b"", b"")])
    def test_an_empty_message_is_one_frame(self, payloads: tuple[bytes, ...]) -> None:
        assert filtered(b"m:", *fragments(BINARY, *payloads)) == [Frame(BINARY, b"", True)]

    @pytest.mark.parametrize(
        "payloads", [(b"x", b"m:y"), (b"m", b"x", b"y"), (b"m", b""), (b"", b"")]
    )
    def test_messages_without_the_prefix_are_dropped_whole(
        self, payloads: tuple[bytes, ...]
    ) -> None:
        for opcode in (TEXT, BINARY):
            pieces = [*fragments(opcode, *payloads), Frame(opcode, b"m:z")]
            assert filtered(b"m:", *pieces) == [Frame(opcode, b"z")]

    @pytest.mark.parametrize("prefix", [b"m:", b"", b"c"])
    def test_a_control_message_is_put_together(self, prefix: bytes) -> None:
        for payloads in ((b"c:{", b"", b"}"), (b"", b"c", b":{}"), (b"c", b":", b"{}", b"")):
            assert filtered(prefix, *fragments(TEXT, *payloads)) == [b"{}"]

    def test_what_might_have_been_control_is_relayed(self) -> None:
        assert filtered(b"", *fragments(TEXT, b"c", b"x", b"y")) == [
            Frame(TEXT, b"cx", False),
            Frame(CONT, b"y", True),
        ]
        assert filtered(b"c", *fragments(TEXT, b"c", b"")) == [Frame(TEXT, b"", True)]

    def test_binary_with_c_is_not_kept_back(self) -> None:
        assert filtered(b"", *fragments(BINARY, b"c", b":")) == [
            Frame(BINARY, b"c", False),
            Frame(CONT, b":", True),
        ]

    def test_too_long_a_control_message_is_dropped_to_its_end(self) -> None:
        half = b"x" * (CONTROL_MAX // 2)
        longest = fragments(TEXT, b"c:", half, half)
        longer = fragments(TEXT, b"c:", half, half, b"x", b"m:y")
        longer_at_end = fragments(TEXT, b"c:x", half, half)
        frames = [*longer, *longer_at_end, *longest]
        assert filtered(b"m:", *frames, Frame(TEXT, b"m:z")) == [half + half, Frame(TEXT, b"z")]


prefixes = st.sampled_from([b"", b"m:", b"c", b"c:", b"c:m", b"mcm"])
# Starts that matter, in any number of pieces.
texts = st.lists(st.sampled_from([b"m", b"c", b":", b"x"]), max_size=8).map(b"".join)
sent = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY]), texts, st.lists(st.integers(0, 8), max_size=5)),
    max_size=5,
)


def joined(outputs: list[Output]) -> list[Output]:
    """`outputs` with every relayed message in one frame; checks that its pieces fit together."""
    whole: list[Output] = []
    begun: Frame | None = None
    for output in outputs:
        if isinstance(output, bytes):
            assert begun is None
            whole.append(output)
            continue
        assert output.payload or output.fin
        if begun is None:
            assert output.opcode != CONT
            begun = output
        else:
            assert output.opcode == CONT
            begun = Frame(begun.opcode, begun.payload + output.payload, output.fin)
        if begun.fin:
            whole.append(begun)
            begun = None
    assert begun is None
    return whole


@settings(max_examples=200, deadline=None)
@given(prefixes, sent)
def test_fragments_make_no_difference(
    prefix: bytes, messages: list[tuple[int, bytes, list[int]]]
) -> None:
    expected: list[Output] = []
    for opcode, payload, _ in messages:
        if opcode == TEXT and payload[:2] == b"c:":
            expected.append(payload[2:])
        elif payload[: len(prefix)] == prefix:
            expected.append(Frame(opcode, payload[len(prefix) :]))
    assert (
        filtered(prefix, *(Frame(opcode, payload) for opcode, payload, _ in messages)) == expected
    )
    pieces = [piece for message in messages for piece in split(*message)]
    assert joined(filtered(prefix, *pieces)) == expected
