"""What a page of another origin gets: CORS headers, and JSON-P there and back."""

import json
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.clients.crossorigin import (
    Jsonp,
    JsonpEncoder,
    cors_headers,
    jsonp_held_response,
    jsonp_request,
    jsonp_response,
)
from gripproxy.errors import CrossOriginError


@dataclass(frozen=True, slots=True)
class Settings:
    jsonp_mode: str = "extended"
    jsonp_cb: str = "callback"
    jsonp_body: str | None = None
    jsonp_defcb: str | None = None
    jsonp_defmethod: str = "GET"


PLAIN = Settings()
BASIC = Settings(jsonp_mode="basic", jsonp_defmethod="POST")
NAMED = Settings(jsonp_cb="cb", jsonp_body="data")
DEFAULTED = Settings(jsonp_body="data", jsonp_defcb="dcb", jsonp_defmethod="PUT")


def asked(
    target: str, route: Settings = PLAIN, headers: list[tuple[bytes, bytes]] | None = None
) -> Jsonp:
    jsonp = jsonp_request(b"GET", target.encode(), headers or [], route)
    assert jsonp is not None
    return jsonp


def refused(target: str, route: Settings = PLAIN) -> str:
    with pytest.raises(CrossOriginError) as caught:
        jsonp_request(b"GET", target.encode(), [], route)
    assert caught.value.status == 400
    return str(caught.value)


def with_headers(headers: object) -> str:
    text = headers if isinstance(headers, str) else json.dumps(headers)
    return "/?callback=f&_headers=" + quote(text, safe="")


EXTENDED_F = asked("/?callback=f")
BASIC_F = asked("/?callback=f", BASIC)


class TestCors:
    def test_a_request_that_asks_for_nothing_gets_the_general_headers(self) -> None:
        assert cors_headers([], []) == [
            (b"Access-Control-Allow-Methods", b"OPTIONS, HEAD, GET, POST, PUT, DELETE"),
            (b"Access-Control-Allow-Credentials", b"true"),
            (b"Access-Control-Allow-Origin", b"*"),
            (b"Access-Control-Max-Age", b"3600"),
        ]

    def test_a_preflight_is_told_what_it_asked(self) -> None:
        request = [
            (b"origin", b"http://o"),
            (b"access-control-request-method", b"FOO"),
            (b"Access-Control-Request-Headers", b"X-A, x-b"),
            (b"Access-Control-Request-Headers", b"third"),
        ]
        assert cors_headers(request, []) == [
            (b"Access-Control-Allow-Methods", b"FOO"),
            (b"Access-Control-Allow-Headers", b"X-A, x-b, third"),
            (b"Access-Control-Allow-Credentials", b"true"),
            (b"Access-Control-Allow-Origin", b"http://o"),
            (b"Access-Control-Max-Age", b"3600"),
        ]

    def test_empty_request_headers_count_as_absent(self) -> None:
        names = (b"Origin", b"Access-Control-Request-Method", b"Access-Control-Request-Headers")
        assert cors_headers([(name, b"") for name in names], []) == cors_headers([], [])

    def test_headers_beyond_the_simple_ones_are_exposed_once_in_their_first_spelling(self) -> None:
        names = (
            b"X-B x-b Cache-Control Content-Language Content-Length Content-Type EXPIRES Date "
            b"Last-Modified Pragma Access-Control-Foo Grip-Z Vary Connection Keep-Alive "
            b"Transfer-Encoding"
        ).split()
        headers = dict(cors_headers([], [(name, b"1") for name in names]))
        assert headers[b"Access-Control-Expose-Headers"] == b"X-B, Date, Vary"

    def test_what_the_backend_set_itself_stays(self) -> None:
        response = [
            (b"access-control-allow-origin", b"http://only"),
            (b"Access-Control-Expose-Headers", b"Foo"),
            (b"X-B", b"1"),
        ]
        names = [name for name, _ in cors_headers([(b"Origin", b"http://o")], response)]
        assert names == [
            b"Access-Control-Allow-Methods",
            b"Access-Control-Allow-Credentials",
            b"Access-Control-Max-Age",
        ]


class TestRecognising:
    @pytest.mark.parametrize(
        "target", ["/", "/?", "/?x=1", "/?Callback=f", "/?_method=PUT", "/?x=1;callback=f"]
    )
    def test_without_the_callback_parameter_a_get_is_ordinary(self, target: str) -> None:
        assert jsonp_request(b"GET", target.encode(), [], PLAIN) is None

    @pytest.mark.parametrize("method", [b"POST", b"HEAD", b"OPTIONS", b"get"])
    def test_only_get_can_be_jsonp(self, method: bytes) -> None:
        assert jsonp_request(method, b"/?callback=f", [], PLAIN) is None

    def test_the_route_names_the_callback_parameter(self) -> None:
        assert asked("/?cb=f", NAMED).callback == b"f"
        assert jsonp_request(b"GET", b"/?callback=f", [], NAMED) is None

    def test_a_body_alone_suffices_when_the_route_has_a_default_callback(self) -> None:
        jsonp = asked("/p?data=%7B%7D&k=1", DEFAULTED)
        assert jsonp.callback == b"dcb"
        assert jsonp.method == b"PUT"
        assert jsonp.target == b"/p?k=1"
        assert jsonp.body == b"{}"

    @pytest.mark.parametrize("target", ["/?k=1", "/?_body=x"])
    def test_a_default_callback_does_nothing_without_the_body_parameter(self, target: str) -> None:
        assert jsonp_request(b"GET", target.encode(), [], DEFAULTED) is None

    def test_a_default_callback_does_nothing_when_no_body_parameter_is_named(self) -> None:
        assert jsonp_request(b"GET", b"/?_body=x", [], Settings(jsonp_defcb="dcb")) is None

    def test_a_given_callback_beats_the_default(self) -> None:
        assert asked("/?callback=mine&data=1", DEFAULTED).callback == b"mine"

    def test_the_mode_is_extended_unless_the_route_says_basic(self) -> None:
        assert EXTENDED_F.mode == "extended"
        assert BASIC_F.mode == "basic"


class TestCallback:
    @pytest.mark.parametrize(
        "name",
        [
            "f",
            "$_1",
            "jQuery3_17",
            "a.b.c",
            "angular.callbacks._0",
            "a[0]",
            'a["x-y"].b',
            "a['x']",
            "café",
        ],
    )
    def test_names_of_functions_pass(self, name: str) -> None:
        assert asked("/?callback=" + quote(name)).callback == name.encode()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "alert(1)//",
            "<script>",
            "a;b",
            "a=b",
            "a b",
            "a+b",
            "a,b",
            "a\nb",
            "f\n",
            "a\r\nX: y",
            "a\0",
            "*/x",
            "1a",
            "a.",
            ".a",
            "a..b",
            "a[b]",
            'a["x',
            "a['x\"]",
            'a["</script>"]',
            "a\\u0028",
            "\u2028",
            "%",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        assert refused("/?callback=" + quote(text, safe="")) == "Invalid callback parameter."

    def test_bytes_that_are_not_utf8_are_refused(self) -> None:
        assert refused("/?callback=%FF") == "Invalid callback parameter."

    def test_a_parameter_without_value_is_refused(self) -> None:
        assert refused("/?callback") == "Invalid callback parameter."

    def test_an_empty_callback_is_refused_even_when_there_is_a_default(self) -> None:
        assert refused("/?callback=&data=1", DEFAULTED) == "Invalid callback parameter."

    @settings(max_examples=300, deadline=None)
    @given(st.text(max_size=12) | st.text(alphabet="ab$_.[]\"'0(); \n/*\\<>", max_size=12))
    def test_no_callback_brings_anything_but_a_name(self, text: str) -> None:
        try:
            jsonp = jsonp_request(b"GET", b"/?callback=" + quote(text, safe="").encode(), [], PLAIN)
        except CrossOriginError:
            return
        assert jsonp is not None
        assert not set(jsonp.callback.decode()) & set("()<>;,=+*/\\&| \t\r\n\0\u2028\u2029`{}!?:")


class TestTarget:
    @pytest.mark.parametrize(
        ("given_target", "sent"),
        [
            ("/ok?callback=f", b"/ok"),
            ("/ok?callback=f&", b"/ok"),
            ("/ok?call%62ack=f", b"/ok"),
            ("/ok?callback=f&callback=g", b"/ok"),
            ("/a%2fb?x=%zz&callback=f&y=%20+2&&q=a=b&e=", b"/a%2fb?x=%zz&y=%20+2&&q=a=b&e="),
            ("/?callback=f&_method=PUT&_headers=%7B%7D&_body=x&z", b"/?z"),
        ],
    )
    def test_the_parameters_vanish_and_the_rest_stays_as_it_was(
        self, given_target: str, sent: bytes
    ) -> None:
        assert asked(given_target).target == sent

    def test_of_a_repeated_parameter_the_first_counts(self) -> None:
        jsonp = asked("/?callback=f&callback=g&_method=PUT&_method=DELETE&_body=1&_body=2")
        assert (jsonp.callback, jsonp.method, jsonp.body) == (b"f", b"PUT", b"1")


class TestMethod:
    def test_it_defaults_to_what_the_route_says(self) -> None:
        assert EXTENDED_F.method == b"GET"
        assert BASIC_F.method == b"POST"

    @pytest.mark.parametrize("method", ["POST", "post", "FOO", "PO%2BST"])
    def test_the_query_chooses_it(self, method: str) -> None:
        assert asked(f"/?callback=f&_method={method}").method == method.replace("%2B", "+").encode()

    @pytest.mark.parametrize(
        "method", ["", "P%20ST", "P%0D%0AX", "%FF", "P%00", "GET%20/x%20HTTP/1.1"]
    )
    def test_what_is_no_token_is_refused(self, method: str) -> None:
        assert refused(f"/?callback=f&_method={method}") == "Invalid _method parameter."


class TestHeaders:
    def test_the_client_s_own_pass_behind_host_those_asked_for_and_accept(self) -> None:
        client = [
            (b"User-Agent", b"real"),
            (b"Host", b"h"),
            (b"accept", b"q/r"),
            (b"Cookie", b"c=d"),
        ]
        jsonp = asked(with_headers({"X": " 1 ", "A": "2"}), headers=client)
        assert jsonp.headers == (
            (b"Host", b"h"),
            (b"A", b"2"),
            (b"X", b"1"),
            (b"Accept", b"*/*"),
            (b"User-Agent", b"real"),
            (b"Cookie", b"c=d"),
        )

    def test_what_frames_the_client_s_request_is_left_behind(self) -> None:
        client = [(b"Content-Length", b"3"), (b"Expect", b"100-continue"), (b"X", b"1")]
        assert asked("/?callback=f", headers=client).headers == ((b"Accept", b"*/*"), (b"X", b"1"))

    def test_the_query_cannot_set_host_accept_or_framing(self) -> None:
        jsonp = asked(
            with_headers(
                {
                    "HOST": "evil",
                    "Accept": "x",
                    "content-length": "5",
                    "Transfer-Encoding": "chunked",
                    "Connection": "close",
                    "X": "",
                }
            )
        )
        assert jsonp.headers == ((b"X", b""), (b"Accept", b"*/*"))

    @pytest.mark.parametrize(
        "headers",
        [
            "",
            "nojson",
            "null",
            '"s"',
            "[]",
            '[["X","1"]]',
            '{"X":"1"} junk',
            "[" * 3000,
            {"X": 1},
            {"X": None},
            {"X": ["a"]},
            {"X": "a\r\nY: b"},
            {"X": "a\0b"},
            {"": "v"},
            {"X Y": "v"},
            {"X:": "v"},
            {"é": "v"},
            '{"X":"\\ud800"}',
        ],
    )
    def test_what_is_no_object_of_headers_is_refused(self, headers: object) -> None:
        assert refused(with_headers(headers)) == "Invalid _headers parameter."


class TestBody:
    def test_it_is_percent_decoded_and_plus_is_no_space(self) -> None:
        assert asked("/?callback=f&_body=a%20b+c%00%FF%zz").body == b"a b+c\0\xff%zz"

    def test_without_the_parameter_it_is_empty(self) -> None:
        assert EXTENDED_F.body == b""

    def test_the_route_s_own_parameter_means_json_whatever_was_asked(self) -> None:
        jsonp = asked(
            "/?cb=f&data=nojson&_headers=%7B%22content-type%22:%22x/y%22,%22B%22:%221%22%7D",
            NAMED,
            [(b"Content-Type", b"c/t")],
        )
        assert jsonp.body == b"nojson"
        assert jsonp.headers == (
            (b"B", b"1"),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"*/*"),
        )

    def test_the_route_s_own_parameter_leaves_underscore_body_to_the_backend(self) -> None:
        jsonp = asked("/?cb=f&_body=x", NAMED)
        assert (jsonp.target, jsonp.body) == (b"/?_body=x", b"")

    def test_an_empty_one_is_refused_by_its_kind(self) -> None:
        assert refused("/?callback=f&_body=") == "Invalid _body parameter."
        assert refused("/?cb=f&data=", NAMED) == "Invalid body parameter."


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["callback", "_method", "_headers", "_body", "data", "x", "%63allback"]
            ),
            st.binary(max_size=12) | st.sampled_from([b"f", b"PUT", b"{}", b'{"X":"1"}', b"%"]),
        ),
        max_size=5,
    ),
    st.sampled_from([PLAIN, BASIC, NAMED, DEFAULTED]),
)
def test_any_query_is_understood_or_refused(
    fields: list[tuple[str, bytes]], route: Settings
) -> None:
    target = b"/p?" + b"&".join(n.encode() + b"=" + v for n, v in fields)
    try:
        jsonp = jsonp_request(b"GET", target, [(b"Host", b"h")], route)
    except CrossOriginError as error:
        assert error.status == 400
        return
    if jsonp is not None:
        lines = b"".join([jsonp.method, *(n + v for n, v in jsonp.headers)])
        assert not set(lines) & set(b"\r\n\0 ")


class TestWholeAnswer:
    def test_extended_mode_gives_the_function_everything(self) -> None:
        backend = [
            (b"X-B", b"1"),
            (b"X-B", b"2"),
            (b"A-Z", b"q"),
            (b"Cache-Control", b"no-cache"),
            (b"ETag", b'"e"'),
            (b"Content-Length", b"9"),
        ]
        headers, body = jsonp_response(EXTENDED_F, 201, b"Made", backend, b'{"a": 1}\n')
        assert body == (
            b'/**/f({"code": 201, "reason": "Made", "headers": {"A-Z":"q",'
            b'"Cache-Control":"no-cache","Content-Length":"9","ETag":"\\"e\\"","X-B":"1"}, '
            b'"body": "{\\"a\\": 1}\\n"});\n'
        )
        assert headers == [
            (b"Content-Type", b"application/javascript"),
            (b"Cache-Control", b"no-cache"),
            (b"Content-Length", b"%d" % len(body)),
        ]

    def test_basic_mode_gives_it_the_body(self) -> None:
        backend = [(b"X-B", b"1"), (b"cache-control", b"a"), (b"Cache-Control", b"b")]
        headers, body = jsonp_response(BASIC_F, 502, b"Bad Gateway", backend, b'{"a": 1}\n')
        assert body == b'/**/f({"a": 1});\n'
        assert headers == [
            (b"Content-Type", b"application/javascript"),
            (b"cache-control", b"a"),
            (b"Cache-Control", b"b"),
            (b"Content-Length", b"17"),
        ]

    @pytest.mark.parametrize(
        ("sent", "argument"),
        [(b"1\n", b"1"), (b"1\r\n", b"1"), (b"1\n\n", b"1\n"), (b"1\r", b"1\r"), (b"\n", b"")],
    )
    def test_basic_mode_trims_one_newline(self, sent: bytes, argument: bytes) -> None:
        assert jsonp_response(BASIC_F, 200, b"OK", [], sent)[1] == b"/**/f(" + argument + b");\n"

    def test_basic_mode_cannot_give_it_nothing(self) -> None:
        with pytest.raises(CrossOriginError) as caught:
            jsonp_response(BASIC_F, 204, b"No Content", [], b"")
        assert caught.value.status == 500
        assert str(caught.value) == "Upstream response could not be JSON-P encoded."

    def test_extended_mode_can(self) -> None:
        _, body = jsonp_response(EXTENDED_F, 204, b"No Content", [], b"")
        assert body == b'/**/f({"code": 204, "reason": "No Content", "headers": {}, "body": ""});\n'

    def test_the_body_is_escaped_for_javascript(self) -> None:
        _, body = jsonp_response(EXTENDED_F, 200, b"OK", [], '\0\x01\b\x7f"\\/<é\u2028😀'.encode())
        assert b'"body": "\\u0000\\u0001\\b\x7f\\"\\\\/<\xc3\xa9\\u2028\xf0\x9f\x98\x80"' in body

    def test_bytes_that_are_not_utf8_are_replaced(self) -> None:
        _, body = jsonp_response(EXTENDED_F, 200, b"\xff", [(b"X", b"\xe9")], b"a\xff\xfeb")
        assert (
            '"reason": "\ufffd", "headers": {"X":"\ufffd"}, "body": "a\ufffd\ufffdb"'
            in body.decode()
        )

    @pytest.mark.parametrize("name", [b"set-cookie", b"Connection", b"Transfer-Encoding"])
    def test_cookies_and_the_connection_are_no_business_of_scripts(self, name: bytes) -> None:
        _, body = jsonp_response(EXTENDED_F, 200, b"OK", [(name, b"secret")], b"")
        assert b"secret" not in body


class TestHeldAnswer:
    ITEM = (
        (b"Server", b"be"),
        (b"Content-Type", b"text/plain"),
        (b"X-M", b"1"),
        (b"x-m", b"2"),
        (b"Set-Cookie", b"secret"),
        (b"Content-Length", b"99"),
    )

    def test_extended_mode_sends_compact_sorted_json_and_keeps_the_headers(self) -> None:
        headers, body = jsonp_held_response(EXTENDED_F, 404, b"Nope", self.ITEM, '"é"\n'.encode())
        assert body.decode() == (
            '/**/f({"body":"\\"é\\"\\n","code":404,'
            '"headers":{"Content-Type":"text/plain","Server":"be","X-M":"1, 2"},'
            '"reason":"Nope"});\n'
        )
        assert headers == [
            (b"Server", b"be"),
            (b"X-M", b"1"),
            (b"x-m", b"2"),
            (b"Set-Cookie", b"secret"),
            (b"Content-Type", b"application/javascript"),
            (b"Content-Length", b"%d" % len(body)),
        ]

    def test_basic_mode_trims_one_newline_and_allows_nothing(self) -> None:
        assert jsonp_held_response(BASIC_F, 200, b"OK", [], b"1\r\n\n")[1] == b"/**/f(1\r\n);\n"
        assert jsonp_held_response(BASIC_F, 200, b"OK", [], b"")[1] == b"/**/f();\n"


class TestAnswerInPieces:
    def test_only_the_type_is_known_at_the_start(self) -> None:
        encoder = JsonpEncoder(EXTENDED_F, 201, b"Made", [(b"Cache-Control", b"no-cache")])
        assert encoder.headers == [(b"Content-Type", b"application/javascript")]

    def test_extended_mode_sends_each_piece_at_once(self) -> None:
        encoder = JsonpEncoder(EXTENDED_F, 201, b"Made", [(b"X", b"1")])
        start = b'/**/f({"code": 201, "reason": "Made", "headers": {"X":"1"}, "body": "'
        assert encoder.start() == start
        assert encoder.feed(b'a"\n') == b'a\\"\\n'
        assert encoder.feed(b"\xc3") == b""
        assert encoder.feed(b"\xa9") == b"\xc3\xa9"
        assert encoder.feed(b"\xc3") == b""
        assert encoder.finish() == '\ufffd"});\n'.encode()

    def test_basic_mode_holds_a_newline_back_until_more_follows(self) -> None:
        encoder = JsonpEncoder(BASIC_F, 200, b"OK", [])
        assert encoder.start() == b"/**/f("
        assert encoder.feed(b"1\n") == b"1"
        assert encoder.feed(b"2\r") == b"\n2"
        assert encoder.feed(b"\n") == b""
        assert encoder.finish() == b");\n"

    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.binary(max_size=4) | st.sampled_from([b"\r", b"\n", b"\xf0\x9f", b"\x98\x80"])),
        st.sampled_from([EXTENDED_F, BASIC_F]),
    )
    def test_the_pieces_add_up_to_the_whole(self, pieces: list[bytes], jsonp: Jsonp) -> None:
        encoder = JsonpEncoder(jsonp, 200, b"OK", [])
        script = encoder.start() + b"".join(map(encoder.feed, pieces)) + encoder.finish()
        body = b"".join(pieces)
        if body:
            assert script == jsonp_response(jsonp, 200, b"OK", [], body)[1]
        if jsonp is EXTENDED_F:
            wrapped = json.loads(script.removeprefix(b"/**/f(").removesuffix(b");\n"))
            assert wrapped["body"] == body.decode(errors="replace")
