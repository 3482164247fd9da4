"""Instructions in headers: what they mean and how wrong ones are reported."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import InstructError, PatchError
from gripproxy.grip.instruct import (
    Channel,
    HoldMode,
    Instruct,
    KeepAlive,
    KeepAliveMode,
    NextLink,
    Response,
    is_instruct,
    may_relay,
    parse,
    parse_headers_only,
    respond,
)
from gripproxy.grip.item import Action, HttpResponse

JSON = (b"Content-Type", b"application/grip-instruct")
IDLE, INTERVAL = KeepAliveMode.IDLE, KeepAliveMode.INTERVAL

Fields = list[tuple[bytes, bytes]]


def grip(**values: bytes | list[bytes]) -> Fields:
    """`Grip-*` fields, from keywords with `_` for `-`."""
    fields: Fields = []
    for keyword, given_values in values.items():
        name = b"Grip-" + keyword.title().replace("_", "-").encode()
        if isinstance(given_values, bytes):
            given_values = [given_values]
        fields += [(name, value) for value in given_values]
    return fields


def instruct(*fields: tuple[bytes, bytes], **values: bytes | list[bytes]) -> Instruct:
    return parse(200, b"OK", [*fields, *grip(**values)], b"body")


def error(**values: bytes | list[bytes]) -> str:
    with pytest.raises(InstructError) as caught:
        instruct(**values)
    return str(caught.value)


class TestIsInstruct:
    @pytest.mark.parametrize(
        "field",
        [
            (b"Grip-Hold", b""),
            (b"GRIP-X", b"y"),
            (b"grip-", b""),
            (b"gRiP-Channel", b""),
            (b"Content-Type", b"application/grip-instruct"),
            (b"content-type", b"application/grip-instruct;charset=utf-8"),
        ],
    )
    def test_grip_fields_and_the_content_type_tell(self, field: tuple[bytes, bytes]) -> None:
        assert is_instruct([(b"Server", b"x"), field, (b"A", b"b")])

    @pytest.mark.parametrize(
        "field",
        [
            (b"", b""),
            (b"Grip", b"x"),
            (b"Gripe-X", b"x"),
            (b"X-Grip-Hold", b"stream"),
            (b"Content-Type", b"application/grip-instruction"),
            (b"Content-Type", b"application/grip-instruct ;charset=utf-8"),
            (b"Content-Type", b"Application/Grip-Instruct"),
            (b"Content-Type", b"text/plain"),
            (b"X-Media-Type", b"application/grip-instruct"),
        ],
    )
    def test_nothing_else_does(self, field: tuple[bytes, bytes]) -> None:
        assert not is_instruct([field])

    def test_no_fields_are_no_instruction(self) -> None:
        assert not is_instruct([])


class TestHold:
    def test_the_mode_is_exact(self) -> None:
        assert instruct(hold=b"response").hold is HoldMode.RESPONSE
        assert instruct(hold=b"stream").hold is HoldMode.STREAM
        assert instruct().hold is None
        for value in (b"", b"Response", b"response; x=y", b"response, stream", b"\xff"):
            assert error(hold=value) == "Grip-Hold must be set to either 'response' or 'stream'"

    def test_the_first_of_several_counts(self) -> None:
        assert instruct(hold=[b"stream", b"x"]).hold is HoldMode.STREAM

    def test_names_match_in_any_case(self) -> None:
        assert parse(200, b"OK", [(b"gRIP-hOLD", b"stream")], b"").hold is HoldMode.STREAM


class TestChannels:
    def test_a_list_with_prev_ids_and_filters(self) -> None:
        value = b"a; prev-id=3; filter=skip-self; filter=build-id, b; PREV-ID="
        assert instruct(channel=[value, b"c"]).channels == (
            Channel("a", "3", ("skip-self", "build-id")),
            Channel("b", ""),
            Channel("c"),
        )

    def test_names_are_taken_as_they_are(self) -> None:
        value = b'"q,r",, \xff, a;prev-id;Filter=skip-self;filter'
        assert instruct(channel=value).channels == (
            Channel('"q,r"'),
            Channel(""),
            Channel("\udcff"),
            Channel("a"),
        )

    def test_a_hold_without_channels_is_legal(self) -> None:
        assert instruct(hold=b"response").channels == ()

    def test_filters_are_bounded(self) -> None:
        assert len(instruct(channel=b"a" + b";filter=x" * 5).channels[0].filters) == 5
        assert error(channel=b"a" + b";filter=x" * 6) == "too many filters for channel 'a'"


class TestTimeout:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [(b"30", 30), (b"+30", 30), (b"030", 30), (b"5", 5), (b"4", 5), (b"0", 5)],
    )
    def test_is_a_number_of_seconds_and_at_least_5(self, value: bytes, seconds: int) -> None:
        assert instruct(timeout=value).timeout == seconds

    def test_is_55_by_default(self) -> None:
        assert instruct(hold=b"response").timeout == 55

    def test_other_values_are_errors(self) -> None:
        for value in (b"", b"x", b"1.5", b"5;x=y", b"0x10", b"2147483648"):
            assert error(timeout=value) == "failed to parse Grip-Timeout"
        assert error(timeout=b"-1") == "Grip-Timeout has invalid value"


class TestKeepAlive:
    @pytest.mark.parametrize(
        ("value", "keep_alive"),
        [
            (b"q", KeepAlive(b"q", 55, IDLE)),
            (b" q ;timeout=20", KeepAlive(b"q", 20, IDLE)),
            (b"q; timeout=0", KeepAlive(b"q", 1, IDLE)),
            (b'"q";timeout="7"x', KeepAlive(b'"q"', 7, IDLE)),
            (b"q,r; mode=interval", KeepAlive(b"q,r", 55, INTERVAL)),
            (b"q; mode=idle; timeout=3; timeout=4", KeepAlive(b"q", 3, IDLE)),
            (b"q; mode=; format=", KeepAlive(b"q", 55, IDLE)),
            (b"q; mode; format; timeout", KeepAlive(b"q", 55, IDLE)),
            (b"\\n", KeepAlive(b"\\n", 55, IDLE)),
            (b"\\n\\\\\\r\\x41\\x00a\\q; format=cstring", KeepAlive(b"\n\\\rA\0a", 55, IDLE)),
            (b"eHg; FORMAT=base64", KeepAlive(b"xx", 55, IDLE)),
            (b"!!; format=base64", None),
            (b"", None),
            (b'q; timeout="5', None),
        ],
    )
    def test_data_format_mode_and_timeout(self, value: bytes, keep_alive: KeepAlive | None) -> None:
        assert instruct(keep_alive=value).keep_alive == keep_alive

    def test_the_first_of_several_counts(self) -> None:
        assert instruct(keep_alive=[b"q", b"r"]).keep_alive == KeepAlive(b"q", 55, IDLE)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (b";timeout=5", "Grip-Keep-Alive cannot be empty"),
            (b"q;mode=Idle", "no such Grip-Keep-Alive mode 'Idle'"),
            (b"q;format=raw\xff", "no such Grip-Keep-Alive format 'raw?'"),
            (b"q;timeout=", "failed to parse Grip-Keep-Alive timeout value"),
            (b"q;timeout=1.5", "failed to parse Grip-Keep-Alive timeout value"),
            (b"q;timeout=-1", "Grip-Keep-Alive timeout has invalid value"),
        ],
    )
    def test_errors(self, value: bytes, message: str) -> None:
        assert error(keep_alive=value) == message

    @pytest.mark.parametrize("data", [b"a\\", b"\\x1", b"\\xzz", b"\\x1g", b"\\q"])
    def test_a_cstring_with_a_broken_escape_or_nothing_in_it_is_an_error(self, data: bytes) -> None:
        assert error(keep_alive=data + b";format=cstring") == (
            "failed to parse Grip-Keep-Alive cstring format"
        )


class TestMeta:
    @pytest.mark.parametrize(
        ("values", "meta"),
        [
            ([b"a=1, b=2", b"c=3"], {"a": "1", "b": "2", "c": "3"}),
            ([b"a=b;c=d"], {"a": "b"}),
            ([b"a=1, a=2"], {"a": "2"}),
            ([b'a="x,y;\\"z"junk'], {"a": 'x,y;"z'}),
            ([b"a=b=c"], {"a": "b=c"}),
            ([b"a , b="], {"b": ""}),
            ([b'a=1, b="x, c=2'], {"a": "1"}),
            ([b"a=\xff"], {"a": "\udcff"}),
            ([b""], {}),
        ],
    )
    def test_the_first_pair_of_each_element_counts(
        self, values: list[bytes], meta: dict[str, str]
    ) -> None:
        assert instruct(set_meta=values).meta == meta

    def test_an_empty_element_is_an_error(self) -> None:
        assert error(set_meta=b"a=b,,c=d") == "Grip-Set-Meta cannot be empty"


class TestStatus:
    @pytest.mark.parametrize(
        ("value", "code", "reason"),
        [
            (b"404", 404, b"Not Found"),
            (b"404 Nope", 404, b"Nope"),
            (b"200  Two", 200, b" Two"),
            (b"0", 0, b"Undefined Reason"),
            (b"999", 999, b"Undefined Reason"),
            (b"", 200, b"OK"),
        ],
    )
    def test_replaces_code_and_reason(self, value: bytes, code: int, reason: bytes) -> None:
        response = instruct(status=value).response
        assert (response.code, response.reason) == (code, reason)

    @pytest.mark.parametrize("value", [b"x", b"1000", b"-1", b"200Fine", b"200, 300", b"2e2"])
    def test_other_codes_are_errors(self, value: bytes) -> None:
        assert error(status=value) == "Grip-Status contains invalid status code"

    def test_without_it_the_backends_own_stays(self) -> None:
        response = parse(418, b"Teapot", grip(hold=b"stream"), b"").response
        assert (response.code, response.reason) == (418, b"Teapot")


class TestLinks:
    def test_next_and_gone(self) -> None:
        value = b'</next?a=1>; rel=next; timeout=5, </gone>; REL="gone"'
        parsed = instruct(link=value)
        assert parsed.next_link == NextLink("/next?a=1", 5)
        assert parsed.gone_link == "/gone"

    def test_the_last_of_each_relation_wins(self) -> None:
        parsed = instruct(
            link=[b"</1>;rel=next, </2>;rel=gone", b"</3>;rel=gone, </4>;timeout=0;rel=next"]
        )
        assert parsed.next_link == NextLink("/4", 0)
        assert parsed.gone_link == "/3"

    def test_a_link_is_polled_after_120_seconds_by_default(self) -> None:
        assert instruct(link=b"</>;rel=next").next_link == NextLink("/", 120)

    @pytest.mark.parametrize("value", [b"", b"x", b"</a>", b"</a>;rel=Next", b"</a>;rel=next x"])
    def test_elements_without_parameters_and_other_relations_are_ignored(
        self, value: bytes
    ) -> None:
        parsed = instruct(link=value)
        assert parsed.next_link is None
        assert parsed.gone_link is None

    def test_what_a_request_line_cannot_hold_is_encoded(self) -> None:
        assert instruct(link=b"< /a b\xc3\xa9\t%20 >;rel=next").next_link == NextLink(
            "/a%20b%C3%A9%09%20", 120
        )

    @pytest.mark.parametrize("value", [b"x", b"<>", b"< >", b"<", b"<a>x", b"x<a>"])
    @pytest.mark.parametrize("relation", [b"next", b"gone", b"other"])
    def test_a_link_stands_in_brackets(self, value: bytes, relation: bytes) -> None:
        assert error(link=value + b";rel=" + relation) == "failed to parse Grip-Link value"

    @pytest.mark.parametrize(
        "value", [b"<http://[>", b"<http://x:99999/>", b"<http://x:y/>", b"<http://x:0/>", b"<:x>"]
    )
    def test_a_link_is_a_uri(self, value: bytes) -> None:
        assert error(link=value + b";rel=next") == "Grip-Link contains invalid link"

    def test_a_timeout_is_a_number(self) -> None:
        assert error(link=b"</>;rel=next;timeout=") == "failed to parse Grip-Link timeout value"
        assert error(link=b"</>;rel=next;timeout=-1") == "Grip-Link timeout has invalid value"


class TestResponse:
    FIELDS = (
        (b"A", b"1"),
        (b"Connection", b"close"),
        (b"keep-alive", b"x"),
        (b"Content-Encoding", b"x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content-Length", b"4"),
        (b"Grip-Anything", b"x"),
        (b"X-Grip", b"2"),
        (b"a", b"3"),
    )

    def test_is_the_backends_without_grip_and_connection_fields(self) -> None:
        assert instruct(*self.FIELDS).response == Response(
            200, b"OK", ((b"A", b"1"), (b"X-Grip", b"2"), (b"a", b"3")), b"body"
        )

    @pytest.mark.parametrize(
        ("values", "headers"),
        [
            ([b"a"], ((b"A", b"1"), (b"a", b"3"))),
            ([b"a", b"x-grip"], ((b"A", b"1"), (b"X-Grip", b"2"), (b"a", b"3"))),
            ([b"Connection, Grip-Anything, X-GRIP"], ((b"X-Grip", b"2"),)),
            ([b"a;x=y"], ()),
            ([b","], ()),
            ([b""], ((b"A", b"1"), (b"X-Grip", b"2"), (b"a", b"3"))),
        ],
    )
    def test_exposed_headers_alone_survive(
        self, values: list[bytes], headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        assert instruct(*self.FIELDS, expose_headers=values).response.headers == headers

    def test_session_fields_are_only_stripped(self) -> None:
        parsed = instruct(session_id=b"x", session_detect=b"y", last=b"z")
        assert parsed.response.headers == ()


class TestRelay:
    @pytest.mark.parametrize(
        "values",
        [
            {"hold": b"stream"},
            {"hold": b"stream", "channel": b"a; filter=skip-self"},
            {"link": b"</>;rel=next"},
            {"link": b"</>;rel=gone, </>;rel=next", "channel": b"a"},
        ],
    )
    def test_a_large_stream_may_be_sent_on_before_it_is_held(
        self, values: dict[str, bytes]
    ) -> None:
        assert may_relay(grip(**values))

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"channel": b"a"},
            {"hold": b"response"},
            {"hold": b"response", "link": b"</>;rel=next"},
            {"hold": b"x", "link": b"</>;rel=next"},
            {"link": b"</>;rel=gone"},
            {"hold": b"stream", "channel": b"a, b; filter=x; filter=build-id"},
        ],
    )
    def test_other_large_responses_may_not(self, values: dict[str, bytes]) -> None:
        assert not may_relay(grip(**values))

    def test_nor_may_an_instruction_in_json(self) -> None:
        assert not may_relay([JSON, *grip(hold=b"stream")])

    def test_its_headers_are_read_but_not_exposed_selectively(self) -> None:
        fields = [
            (b"A", b"1"),
            (b"Content-Length", b"100001"),
            *grip(hold=b"stream", expose_headers=b"b", status=b"201", timeout=b"1"),
        ]
        parsed = parse_headers_only(200, b"OK", fields)
        assert parsed.hold is HoldMode.STREAM
        assert parsed.timeout == 5
        assert parsed.response == Response(201, b"Created", ((b"A", b"1"),), b"")

    def test_an_instruction_in_json_is_not_in_the_headers(self) -> None:
        with pytest.raises(InstructError) as caught:
            parse_headers_only(200, b"OK", [JSON, *grip(hold=b"stream")])
        assert str(caught.value) == "failed to parse application/grip-instruct content as JSON"


class TestJson:
    def test_the_body_adds_to_the_headers_and_backend_fields_are_dropped(self) -> None:
        fields = [JSON, (b"A", b"1"), *grip(channel=b"a", timeout=b"9", expose_headers=b"z")]
        body = b'{"hold":{"channels":[{"name":"b"}]},"response":{"body":"x"}}'
        assert parse(200, b"OK", fields, body) == Instruct(
            HoldMode.RESPONSE,
            (Channel("a"), Channel("b")),
            9,
            None,
            {},
            Response(200, b"OK", (), b"x"),
            None,
            None,
        )

    def test_the_minimum_timeout_applies(self) -> None:
        parsed = parse(200, b"OK", [JSON], b'{"hold":{"channels":[],"timeout":1}}')
        assert parsed.timeout == 5

    def test_the_backends_status_must_be_200_whatever_grip_status_says(self) -> None:
        with pytest.raises(InstructError) as caught:
            parse(201, b"Created", [JSON, *grip(status=b"200")], b"{}")
        assert str(caught.value) == (
            "response code for application/grip-instruct content must be 200"
        )

    def test_headers_are_read_first(self) -> None:
        with pytest.raises(InstructError, match="failed to parse Grip-Timeout"):
            parse(201, b"Created", [JSON, *grip(timeout=b"x")], b"x")


class TestRespond:
    HELD = Response(201, b"Held", ((b"A", b"1"), (b"b", b"2"), (b"a", b"3"), (b"C", b"4")), b"{}\n")

    def merged(self, *fields: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        return respond(self.HELD, HttpResponse(Action.SEND, headers=fields)).headers

    def test_code_reason_and_body_are_the_items(self) -> None:
        item = HttpResponse(Action.SEND, 404, b"Nope", (), b"x")
        assert respond(self.HELD, item) == Response(404, b"Nope", self.HELD.headers, b"x")

    def test_the_items_headers_replace_those_of_the_same_name(self) -> None:
        assert self.merged((b"z", b"8"), (b"A", b"9"), (b"a", b"8")) == (
            (b"b", b"2"),
            (b"C", b"4"),
            (b"z", b"8"),
            (b"A", b"9"),
            (b"a", b"8"),
        )

    def test_grip_and_framing_fields_of_the_item_are_dropped(self) -> None:
        assert (
            self.merged(
                (b"Grip-X", b"1"),
                (b"grip-status", b"500"),
                (b"Content-Length", b"77"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Connection", b"close"),
            )
            == self.HELD.headers
        )

    def test_an_encoded_body_may_say_so(self) -> None:
        assert self.merged((b"Content-Encoding", b"gzip"))[-1] == (b"Content-Encoding", b"gzip")

    def test_exposed_headers_of_an_item_are_removed(self) -> None:
        assert self.merged((b"Grip-Expose-Headers", b"a, n"), (b"n", b"1"), (b"m", b"2")) == (
            (b"b", b"2"),
            (b"C", b"4"),
            (b"m", b"2"),
        )
        assert self.merged((b"Grip-Expose-Headers", b"")) == self.HELD.headers

    def test_a_patch_is_applied_to_the_held_body(self) -> None:
        patch = [{"op": "add", "path": "/a", "value": 1}]
        item = HttpResponse(Action.SEND, body_patch=patch)
        assert respond(self.HELD, item).body == b'{"a":1}\n'

    def test_a_patch_that_does_not_apply_is_an_error(self) -> None:
        item = HttpResponse(Action.SEND, body_patch=[{"op": "remove", "path": "/a"}])
        with pytest.raises(PatchError):
            respond(self.HELD, item)


names = st.sampled_from(
    [
        b"Grip-Hold",
        b"Grip-Channel",
        b"Grip-Timeout",
        b"Grip-Keep-Alive",
        b"Grip-Set-Meta",
        b"Grip-Status",
        b"Grip-Expose-Headers",
        b"Grip-Link",
        b"Content-Type",
        b"X",
    ]
)
pieces = st.sampled_from(
    b'stream|response|a|=|;|,|"|\\|<|>|/|:|//|http|[|5|-1| |\xff|timeout=|mode=|format=cstring|'
    b"rel=next|prev-id=|filter=|application/grip-instruct".split(b"|")
)
header_values = st.lists(pieces, max_size=8).map(b"".join) | st.binary(max_size=10)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(names, header_values), max_size=5), st.binary(max_size=20))
def test_any_headers_are_an_instruction_or_our_error(fields: Fields, body: bytes) -> None:
    is_instruct(fields)
    may_relay(fields)
    for whole in (True, False):
        try:
            if whole:
                result = parse(200, b"OK", fields, body)
            else:
                result = parse_headers_only(200, b"OK", fields)
        except InstructError as error:
            str(error).encode()
        else:
            assert result.timeout >= 5
