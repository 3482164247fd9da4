"""SockJS: frames, what wraps them, what clients send, and pages."""

import hashlib
import json
import re
from urllib.parse import quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gripproxy.grip import sockjs
from gripproxy.grip.sockjs import IframePage, Transport

# With lone surrogates, which a script may send.
any_text = st.text(st.characters(exclude_categories=[]))
MANGLED = [
    chr(code)
    for first, last in ((0x200C, 0x200F), (0x2028, 0x202F), (0x2060, 0x206F), (0xFFF0, 0xFFFF))
    for code in range(first, last + 1)
]


# -- what clients are sent ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "string"),
    [
        (b"", b'""'),
        (b"hello", b'"hello"'),
        (b'a"b\\c/', rb'"a\"b\\c/"'),
        (b"\0\n\r\x1f", rb'"\u0000\n\r\u001f"'),
        ("grün €".encode(), '"grün €"'.encode()),
        ("😀".encode(), '"😀"'.encode()),
        ("a\u2028b😀ü".encode(), '"a\\u2028b😀ü"'.encode()),
        ("\ufeff\u200b".encode(), '"\ufeff\u200b"'.encode()),
        (b"\xff", rb'"\ufffd"'),
        (b"\xed\xa0\x80", rb'"\ufffd\ufffd\ufffd"'),
    ],
)
def test_a_string(content: bytes, string: bytes) -> None:
    assert sockjs.quoted(content) == string


def test_what_browsers_mangle_is_escaped() -> None:
    expected = "".join(f"\\u{ord(c):04x}" for c in MANGLED)
    assert sockjs.quoted("".join(MANGLED).encode()) == f'"{expected}"'.encode()


@given(st.text())
@example("".join(MANGLED))
def test_every_text_arrives(text: str) -> None:
    string = sockjs.quoted(text.encode())
    assert json.loads(string) == text
    assert not set(string.decode()) & {*MANGLED, "\r", "\n", "\0"}


@given(st.binary())
def test_every_content_makes_a_string(content: bytes) -> None:
    assert json.loads(sockjs.quoted(content)) == content.decode(errors="replace")


def test_frames() -> None:
    assert (sockjs.OPEN, sockjs.HEARTBEAT) == (b"o", b"h")
    assert sockjs.messages([b'"a"']) == b'a["a"]'
    assert sockjs.messages([b'"a"', b'"b"']) == b'a["a","b"]'
    assert sockjs.close(3000, b"Go away!") == b'c[3000,"Go away!"]'
    assert sockjs.close(0, b'"\xff') == rb'c[0,"\"\ufffd"]'


@pytest.mark.parametrize(
    ("transport", "on_the_wire"),
    [
        (Transport.XHR, b'a["100%"]\n'),
        (Transport.XHR_STREAMING, b'a["100%"]\n'),
        (Transport.EVENTSOURCE, b'data: a["100%25"]\r\n\r\n'),
        (Transport.JSONP, b'/**/f.g("a[\\"100%\\"]");\n'),
    ],
)
def test_wrapping(transport: Transport, on_the_wire: bytes) -> None:
    assert sockjs.wrapped(b'a["100%"]', transport, b"f.g") == on_the_wire


@given(st.text())
def test_json_p_carries_every_frame(text: str) -> None:
    frame = sockjs.messages([sockjs.quoted(text.encode())])
    script = sockjs.wrapped(frame, Transport.JSONP, b"f")
    found = re.fullmatch(rb"/\*\*/f\((.*)\);\n", script)
    assert found and json.loads(found[1]) == frame.decode()


def test_transports() -> None:
    assert {t.value: (t.streams, t.content_type) for t in Transport} == {
        b"xhr": (False, b"text/plain"),
        b"jsonp": (False, b"application/javascript"),
        b"xhr_streaming": (True, b"application/javascript; charset=UTF-8"),
        b"eventsource": (True, b"text/event-stream"),
    }
    assert Transport.XHR_STREAMING.prelude == b"h" * 2048 + b"\n"
    assert Transport.EVENTSOURCE.prelude == b"\r\n"
    assert Transport.XHR.prelude == Transport.JSONP.prelude == b""
    assert sockjs.TRANSPORTS[b"xhr"] is Transport.XHR


# -- what clients send -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"[]", []),
        (b'["a"]', [b"a"]),
        (b' [ "a" , "" ] ', [b"a", b""]),
        ('["ü","\\u00fc"]'.encode(), ["ü".encode()] * 2),
        (rb'["\ud83d\ude00"]', ["😀".encode()]),
        (rb'["\uD83D\uDE00 \ud83d"]', ["😀 \ufffd".encode()]),
        (rb'["\ude00\ud83d"]', ["\ufffd\ufffd".encode()]),
        (rb'["\ud83d\ud83d\ude00"]', ["\ufffd😀".encode()]),
        (rb'["\\ud83d", "\ud83d"]', [rb"\ud83d", "\ufffd".encode()]),
    ],
)
def test_messages(payload: bytes, found: list[bytes]) -> None:
    assert sockjs.parse_messages(payload) == found


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b'"a"',
        b'["a',
        b'["a"] x',
        b'{"a":"b"}',
        b"[1]",
        b'["a",null]',
        b'["a",["b"]]',
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        rb'["\ud800',
        rb'["\x"]',
        b"[" * 100_000,
    ],
)
def test_what_is_not_an_array_of_strings(payload: bytes) -> None:
    assert sockjs.parse_messages(payload) is None


@given(st.lists(any_text))
@example(["\ud83d", "\\ud83d", "\\\ud83d"])
def test_every_string_of_a_script_is_understood(strings: list[str]) -> None:
    wanted = [json.loads(json.dumps(s)) for s in strings]  # which joins surrogates to pairs
    assert sockjs.parse_messages(json.dumps(strings).encode()) == [
        "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in s).encode() for s in wanted
    ]


@given(st.binary() | st.text(r"""[]"\ud8c01,""").map(str.encode))
def test_any_payload_is_understood_or_not(payload: bytes) -> None:
    found = sockjs.parse_messages(payload)
    assert found is None or all(isinstance(m, bytes) for m in found)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (b"d=%5B%22x%22%5D", b'["x"]'),
        (b"d=%5B%22a+b%2B%22%5D", b'["a b+"]'),
        (b"i=1&d=x&d=y", b"x"),
        (b"%64=x", b"x"),
        (b"d=", b""),
        (b"d", b""),
        (b"", None),
        (b"dd=x&x=d", None),
        (b"d=%zz%", b"%zz%"),
    ],
)
def test_a_field_of_a_form(form: bytes, value: bytes | None) -> None:
    assert sockjs.parameter(form, b"d") == value


def test_the_first_name_that_is_there_counts() -> None:
    assert sockjs.parameter(b"c=1&callback=2", b"callback", b"c") == b"2"
    assert sockjs.parameter(b"c=1", b"callback", b"c") == b"1"


@given(st.lists(st.tuples(st.text(), st.text())))
def test_every_form_is_understood(fields: list[tuple[str, str]]) -> None:
    form = urlencode(fields, quote_via=quote_plus).encode()
    for name, value in dict(reversed(fields)).items():
        assert sockjs.parameter(form, name.encode()) == value.encode()


@pytest.mark.parametrize("name", [b"f", b"_jp.a1B2", b"a-b", b"x" * 128])
def test_names_of_functions(name: bytes) -> None:
    assert sockjs.is_callback(name)


@pytest.mark.parametrize("name", [b"", b"a b", b"*", b"abc(", b"a\n", b"a[0]", b"x" * 129, b"\xc3"])
def test_what_is_no_name_of_a_function(name: bytes) -> None:
    assert not sockjs.is_callback(name)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/000/abc/xhr", (b"abc", b"xhr")),
        (b"/_/a.b%20/", (b"a.b%20", b"")),
        (b"/000//xhr", None),
        (b"//abc/xhr", None),
        (b"000/abc/xhr", None),
        (b"x/000/abc/xhr", None),
        (b"/000/abc", None),
        (b"/000/abc/xhr/", None),
        (b"", None),
    ],
)
def test_paths_of_sessions(path: bytes, found: tuple[bytes, bytes] | None) -> None:
    assert sockjs.session_path(path) == found


# -- pages -------------------------------------------------------------------------------------


def test_info() -> None:
    text = b'{"cookie_needed":false,"entropy":4294967295,"origins":["*:*"],"websocket":true}\n'
    assert sockjs.info(2**32 - 1) == text


@pytest.mark.parametrize(
    ("path", "is_it"),
    [
        (b"/iframe.html", True),
        (b"/iframe-0.1.2abc-dirty.2144.html", True),
        (b"/iframe-/.html", False),
        (b"/iframe.htm", False),
        (b"/iframe", False),
        (b"/IFRAME.HTML", False),
        (b"x/iframe.html", False),
    ],
)
def test_paths_of_the_iframe_page(path: bytes, is_it: bool) -> None:
    assert sockjs.is_iframe(path) is is_it


def test_the_iframe_page() -> None:
    page = IframePage("http://cdn.example/sockjs.js")
    assert page.body.startswith(b"<!DOCTYPE html>\n<html>\n")
    assert b'  <script src="http://cdn.example/sockjs.js"></script>\n' in page.body
    assert page.body.endswith(b"</html>\n")
    assert page.etag == b'"%b"' % hashlib.md5(page.body).hexdigest().encode()
    assert IframePage('x"><script>').body.count(b"<script") == 2


@pytest.mark.parametrize(
    ("if_none_match", "current"),
    [(b"%b", True), (b'"other", W/%b', True), (b"*", True), (b'"other"', False), (b"", False)],
)
def test_the_iframe_page_is_cached(if_none_match: bytes, current: bool) -> None:
    page = IframePage("")
    assert page.is_current(if_none_match.replace(b"%b", page.etag)) is current
