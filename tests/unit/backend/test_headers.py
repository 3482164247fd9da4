"""What a backend is sent of a client's headers, step by step, and what is added."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.backend.headers import (
    GRIP_FEATURES,
    HeaderRules,
    HeaderTransform,
    Sender,
    replace_headers,
    request_bytes,
)
from gripproxy.http1.head import CHUNKED, Headers, parse_request
from gripproxy.values import ForwardedFor

FEATURE = (b"Grip-Feature", GRIP_FEATURES)
PLAIN = HeaderRules(grip=False)


class Client:
    def __init__(self, peer: str = "192.0.2.9") -> None:
        self.peer = peer


def sent(
    rules: HeaderRules,
    *fields: tuple[bytes, bytes],
    secure: bool = False,
    trusted: bool = False,
    scheme: bytes = b"https",
    peer: str = "192.0.2.9",
    last_ids: dict[str, str] | None = None,
) -> Headers:
    sender = Sender(Client(peer), secure, trusted)
    return HeaderTransform(rules).apply(list(fields), sender, scheme, last_ids or {})


def names(headers: Headers) -> list[bytes]:
    return [name for name, _ in headers]


# -- what passes, what does not ------------------------------------------------------------------

PASSING = [
    (b"x-a", b"1"),
    (b"X-A", b"2"),
    (b"TE", b"trailers"),
    (b"Upgrade", b"h2c"),
    (b"Named-In-Connection", b"1"),
    (b"Accept", b"*/*"),
    (b"Cookie", b"\xe4"),
    (b"Pushpin-Route", b"r"),
    (b"X-Forwarded-Proto", b"ftp"),
    (b"CDN-Loop", b"a"),
    (b"Gripe", b"1"),
]


def test_headers_pass_in_their_order_and_spelling() -> None:
    assert sent(PLAIN, *PASSING) == PASSING


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        b"Connection",
        b"Keep-Alive",
        b"Accept-Encoding",
        b"Content-Encoding",
        b"Transfer-Encoding",
        b"Expect",
        b"Host",
        b"Content-Length",
        b"CONNECTION",
        b"transfer-encoding",
    ],
)
def test_what_belongs_to_the_connection_or_is_made_anew_does_not_pass(
    name: bytes, trusted: bool
) -> None:
    assert sent(PLAIN, (b"X-A", b"1"), (name, b"x"), trusted=trusted) == [(b"X-A", b"1")]


def test_the_client_s_headers_are_left_as_they_are() -> None:
    fields = [(b"X-A", b"1"), (b"Connection", b"close"), (b"Grip-Sig", b"x")]
    rules = HeaderRules(replace=((b"X-A", b"2"),), keep_originals=True, cdn_loop=b"me")
    HeaderTransform(rules).apply(fields, Sender(Client(), False, False), b"http")
    assert fields == [(b"X-A", b"1"), (b"Connection", b"close"), (b"Grip-Sig", b"x")]


# -- step 0: `header=` ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replace", "result"),
    [
        ([], [(b"X-A", b"1"), (b"X-B", b"2"), (b"x-a", b"3")]),
        ([(b"X-a", b"9")], [(b"X-B", b"2"), (b"X-a", b"9")]),
        ([(b"X-A", b"")], [(b"X-B", b"2")]),
        ([(b"X-C", b"9")], [(b"X-A", b"1"), (b"X-B", b"2"), (b"x-a", b"3"), (b"X-C", b"9")]),
        ([(b"X-C", b"")], [(b"X-A", b"1"), (b"X-B", b"2"), (b"x-a", b"3")]),
        ([(b"X-A", b"8"), (b"x-a", b"9")], [(b"X-B", b"2"), (b"X-A", b"8")]),
        ([(b"X-A", b""), (b"x-a", b"9")], [(b"X-B", b"2")]),
        ([(b"X-A", b"8"), (b"X-B", b"9")], [(b"X-B", b"9"), (b"X-A", b"8")]),
    ],
)
def test_a_route_replaces_headers(replace: list[tuple[bytes, bytes]], result: Headers) -> None:
    fields = [(b"X-A", b"1"), (b"X-B", b"2"), (b"x-a", b"3")]
    assert replace_headers(fields, replace) == result
    assert sent(HeaderRules(replace=tuple(replace), grip=False), *fields) == result


def test_what_a_route_replaces_meets_the_later_steps() -> None:
    rules = HeaderRules(
        replace=((b"Grip-Foo", b"1"), (b"X-Forwarded-For", b"192.0.2.1"), (b"X-A", b"2")),
        keep_originals=True,
        forwarded_for=ForwardedFor(append=True),
    )
    assert sent(rules, (b"X-A", b"1")) == [
        (b"X-A", b"2"),
        (b"eb9bf0f5-X-A", b"2"),
        (b"eb9bf0f5-X-Forwarded-For", b"192.0.2.1"),
        (b"eb9bf0f5-Grip-Foo", b"1"),
        FEATURE,
        (b"X-Forwarded-For", b"192.0.2.1, 192.0.2.9"),
    ]


# -- step 2: originals ---------------------------------------------------------------------------

MARKED = (b"EB9BF0F5-X-B", b"2")


def test_copies_of_the_originals_come_after_all_of_them() -> None:
    rules = HeaderRules(keep_originals=True, grip=False)
    fields = [(b"Host", b"a"), (b"x-a", b"1"), (b"Connection", b"close"), (b"Grip-Sig", b"s")]
    assert sent(rules, *fields) == [
        (b"x-a", b"1"),
        (b"eb9bf0f5-Host", b"a"),
        (b"eb9bf0f5-x-a", b"1"),
        (b"eb9bf0f5-Connection", b"close"),
        (b"eb9bf0f5-Grip-Sig", b"s"),
    ]


def test_some_names_are_not_copied_unless_they_are_marked() -> None:
    rules = HeaderRules(
        keep_originals=True, originals_need_mark=frozenset((b"x-a", b"x-b")), grip=False
    )
    assert sent(rules, (b"X-A", b"1"), MARKED, (b"X-C", b"3")) == [
        (b"X-A", b"1"),
        MARKED,
        (b"X-C", b"3"),
        (b"eb9bf0f5-X-C", b"3"),
    ]


def test_a_copy_is_not_copied_again() -> None:
    assert sent(HeaderRules(keep_originals=True, grip=False), MARKED) == [MARKED]


def test_a_trusted_proxy_has_made_the_copies_already() -> None:
    rules = HeaderRules(keep_originals=True)
    assert sent(rules, (b"X-A", b"1"), MARKED, trusted=True) == [(b"X-A", b"1"), MARKED]


@pytest.mark.parametrize("trusted", [False, True])
def test_copies_are_not_taken_from_clients_where_none_are_made(trusted: bool) -> None:
    assert sent(PLAIN, MARKED, (b"X-A", b"1"), trusted=trusted) == [(b"X-A", b"1")]


# -- steps 4 and 5: Pushpin-Route and CDN-Loop ---------------------------------------------------


def test_the_route_s_id_is_removed_where_it_is_obeyed() -> None:
    rules = HeaderRules(drop_pushpin_route=True, grip=False)
    assert sent(rules, (b"pushpin-route", b"r"), (b"X-A", b"1")) == [(b"X-A", b"1")]


@pytest.mark.parametrize(
    ("passed", "value"),
    [([], b"me"), ([b"a"], b"a, me"), ([b"a", b"b, c"], b"a, b, c, me")],
)
def test_cdn_loop_names_everyone_on_the_way(passed: list[bytes], value: bytes) -> None:
    fields = [(b"cdn-loop", text) for text in passed]
    result = sent(HeaderRules(cdn_loop=b"me", grip=False), *fields, (b"X-A", b"1"))
    assert result == [(b"X-A", b"1"), (b"CDN-Loop", value)]


# -- steps 6 and 7: GRIP -------------------------------------------------------------------------

GRIP = [(b"Grip-Sig", b"s"), (b"GRIP-FEATURE", b"f"), (b"grip-last", b"l"), (b"Grip-", b"x")]


@pytest.mark.parametrize("grip", [False, True])
def test_a_client_cannot_speak_grip(grip: bool) -> None:
    result = sent(HeaderRules(grip=grip), *GRIP, (b"X-A", b"1"))
    assert result == [(b"X-A", b"1"), *([FEATURE] if grip else [])]


def test_a_trusted_proxy_s_grip_headers_pass_untouched() -> None:
    rules = HeaderRules(sign=lambda: b"token")
    assert sent(rules, *GRIP, trusted=True, last_ids={"c": "1"}) == GRIP


def test_a_signature_is_made_for_each_request() -> None:
    tokens = iter([b"one", b"two"])
    transform = HeaderTransform(HeaderRules(sign=lambda: next(tokens)))
    sender = Sender(Client(), False, False)
    for token in (b"one", b"two"):
        assert transform.apply([], sender, b"http") == [(b"Grip-Sig", token), FEATURE]


def test_a_signature_can_be_had_by_itself() -> None:
    tokens = iter([b"one", b"two"])
    transform = HeaderTransform(HeaderRules(sign=lambda: next(tokens)))
    sender = Sender(Client(), False, False)
    assert transform.apply([(b"X-A", b"1")], sender, b"http", handshake=True) == [
        (b"X-A", b"1"),
        FEATURE,
    ]
    assert [transform.signature(sender) for _ in range(2)] == [
        [(b"Grip-Sig", b"one")],
        [(b"Grip-Sig", b"two")],
    ]


@pytest.mark.parametrize(
    ("rules", "trusted"),
    [
        (HeaderRules(), False),
        (HeaderRules(grip=False, sign=lambda: b"token"), False),
        (HeaderRules(sign=lambda: b"token"), True),
    ],
)
def test_nothing_is_signed_without_a_key_without_grip_and_for_a_trusted_proxy(
    rules: HeaderRules, trusted: bool
) -> None:
    assert HeaderTransform(rules).signature(Sender(Client(), False, trusted)) == []


def test_a_route_without_grip_signs_nothing() -> None:
    rules = HeaderRules(grip=False, sign=lambda: b"token")
    assert sent(rules, last_ids={"c": "1"}) == []


def test_a_retry_tells_the_last_ids() -> None:
    assert sent(HeaderRules(), last_ids={"a": "1", "b\udce4": "x y"}) == [
        FEATURE,
        (b"Grip-Last", b"a; last-id=1"),
        (b"Grip-Last", b"b\xe4; last-id=x y"),
    ]


@pytest.mark.parametrize("text", ["a\r\nX-B: 2", "a\nX-B: 2", "a\rX-B: 2", "a\0"])
def test_no_channel_and_no_id_becomes_a_header_of_its_own(text: str) -> None:
    for last_ids in ({"c": text}, {text: "1"}):
        headers = sent(HeaderRules(), last_ids=last_ids)
        assert not any(set(value) & set(b"\r\n\0") for _, value in headers)


# -- step 8: X-Forwarded-Proto -------------------------------------------------------------------

PROTO, PROTOCOL = (b"X-Forwarded-Proto", b"ftp"), (b"x-forwarded-protocol", b"ftp")


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    "added", [(), (b"X-Forwarded-Proto",), (b"X-Forwarded-Proto", b"X-Forwarded-Protocol")]
)
def test_a_tls_client_s_scheme_is_told_in_place_of_what_it_said(
    added: tuple[bytes, ...], secure: bool, trusted: bool
) -> None:
    rules = HeaderRules(drop_forwarded_proto=True, add_forwarded_proto=added, grip=False)
    result = sent(
        rules, PROTO, PROTOCOL, (b"X-A", b"1"), secure=secure, trusted=trusted, scheme=b"wss"
    )
    assert result == [(b"X-A", b"1"), *((name, b"wss") for name in added if secure)]


# -- step 9: X-Forwarded-For ---------------------------------------------------------------------

THREE = [(b"X-Forwarded-For", b"a, b"), (b"x-forwarded-for", b" c ")]


@pytest.mark.parametrize(
    ("rule", "passed", "value"),
    [
        (ForwardedFor(), [], None),
        (ForwardedFor(), THREE, b"a, b, c"),
        (ForwardedFor(append=True), [], b"192.0.2.9"),
        (ForwardedFor(append=True), THREE, b"a, b, c, 192.0.2.9"),
        (ForwardedFor(keep=0), THREE, None),
        (ForwardedFor(keep=0), [], None),
        (ForwardedFor(keep=1), THREE, b"c"),
        (ForwardedFor(keep=2), THREE, b"b, c"),
        (ForwardedFor(keep=3), THREE, b"a, b, c"),
        (ForwardedFor(keep=9), THREE, b"a, b, c"),
        (ForwardedFor(keep=0, append=True), THREE, b"192.0.2.9"),
        (ForwardedFor(keep=1, append=True), THREE, b"c, 192.0.2.9"),
        (ForwardedFor(append=True), [(b"X-Forwarded-For", b" ,, ")], b"192.0.2.9"),
        (ForwardedFor(), [(b"X-Forwarded-For", b"")], None),
    ],
)
def test_the_addresses_on_the_way_are_one_header_at_the_end(
    rule: ForwardedFor, passed: Headers, value: bytes | None
) -> None:
    last = [] if value is None else [(b"X-Forwarded-For", value)]
    rules = HeaderRules(forwarded_for=rule, forwarded_for_trusted=ForwardedFor(keep=0))
    assert sent(rules, *passed, (b"X-A", b"1")) == [(b"X-A", b"1"), FEATURE, *last]


def test_trusted_proxies_have_a_rule_of_their_own() -> None:
    rules = HeaderRules(forwarded_for_trusted=ForwardedFor(append=True))
    assert sent(rules, *THREE, trusted=True) == [(b"X-Forwarded-For", b"a, b, c, 192.0.2.9")]
    rules = HeaderRules(forwarded_for=ForwardedFor(append=True), grip=False)
    assert sent(rules, *THREE, trusted=True) == [(b"X-Forwarded-For", b"a, b, c")]


def test_a_client_without_an_address_adds_none() -> None:
    rules = HeaderRules(forwarded_for=ForwardedFor(append=True), grip=False)
    assert sent(rules, peer="") == []
    assert sent(rules, *THREE, peer="") == [(b"X-Forwarded-For", b"a, b, c")]


def test_the_client_s_address_is_looked_up_only_where_it_is_told() -> None:
    class Costly:
        @property
        def peer(self) -> str:
            raise AssertionError("a system call for nothing")

    HeaderTransform(HeaderRules()).apply(THREE, Sender(Costly(), True, False), b"https")


# -- the handshake of a WebSocket ----------------------------------------------------------------

HANDSHAKE: Headers = [
    (b"Host", b"a"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", b"key"),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Protocol", b"p"),
    (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
    (b"sec-websocket-extensions", b"x"),
    (b"Cookie", b"c"),
    (b"Grip-Sig", b"theirs"),
]


def handshake(rules: HeaderRules, *, trusted: bool = False) -> Headers:
    sender = Sender(Client(), True, trusted)
    return HeaderTransform(rules).handshake(HANDSHAKE, sender, b"wss")


def test_a_handshake_asks_for_our_extension_in_place_of_the_client_s() -> None:
    rules = HeaderRules(sign=lambda: b"token", add_forwarded_proto=(b"X-Forwarded-Proto",))
    assert handshake(rules) == [
        (b"Sec-WebSocket-Key", b"key"),
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Protocol", b"p"),
        (b"Cookie", b"c"),
        FEATURE,
        (b"X-Forwarded-Proto", b"wss"),
        (b"Sec-WebSocket-Extensions", b"grip"),
    ]


def test_a_handshake_of_a_route_without_grip_asks_for_no_extension() -> None:
    assert names(handshake(PLAIN)) == [
        b"Sec-WebSocket-Key",
        b"Sec-WebSocket-Version",
        b"Sec-WebSocket-Protocol",
        b"Cookie",
    ]


def test_a_trusted_proxy_s_handshake_keeps_its_signature() -> None:
    fields = handshake(HeaderRules(sign=lambda: b"token"), trusted=True)
    assert [value for name, value in fields if name == b"Grip-Sig"] == [b"theirs"]
    assert fields[-1] == (b"Sec-WebSocket-Extensions", b"grip")


# -- all together --------------------------------------------------------------------------------


def test_the_steps_follow_one_another() -> None:
    rules = HeaderRules(
        replace=((b"X-R", b"r"),),
        keep_originals=True,
        cdn_loop=b"me",
        drop_forwarded_proto=True,
        add_forwarded_proto=(b"X-Forwarded-Proto",),
        forwarded_for=ForwardedFor(append=True),
        sign=lambda: b"token",
    )
    assert names(sent(rules, (b"X-A", b"1"), secure=True, last_ids={"c": "1"})) == [
        b"X-A",
        b"X-R",
        b"eb9bf0f5-X-A",
        b"eb9bf0f5-X-R",
        b"CDN-Loop",
        b"Grip-Sig",
        b"Grip-Feature",
        b"Grip-Last",
        b"X-Forwarded-Proto",
        b"X-Forwarded-For",
    ]


# -- on the wire ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "length", "framing"),
    [
        (b"GET", 0, b""),
        (b"HEAD", 0, b""),
        (b"OPTIONS", 0, b""),
        (b"GET", 3, b"Content-Length: 3\r\n"),
        (b"POST", 3, b"Content-Length: 3\r\n"),
        (b"POST", 0, b"Content-Length: 0\r\n"),
        (b"DELETE", 0, b"Content-Length: 0\r\n"),
        (b"FOO", 0, b"Content-Length: 0\r\n"),
        (b"POST", CHUNKED, b"Transfer-Encoding: chunked\r\n"),
        (b"GET", CHUNKED, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_a_request_says_how_its_body_ends(method: bytes, length: int, framing: bytes) -> None:
    head = request_bytes(method, b"/x?y", b"a:81", [(b"X-A", b"1"), (b"x-b", b"")], length)
    assert head == (
        method + b" /x?y HTTP/1.1\r\nHost: a:81\r\nX-A: 1\r\nx-b: \r\n" + framing + b"\r\n"
    )


NAME = st.sampled_from(
    [
        b"X-A",
        b"x-a",
        b"Host",
        b"Connection",
        b"Grip-Sig",
        b"X-Forwarded-For",
        b"CDN-Loop",
        b"Expect",
        b"Content-Length",
        b"Transfer-Encoding",
        b"eb9bf0f5-X",
        b"Pushpin-Route",
        b"X-Forwarded-Proto",
    ]
)
FIELDS = st.lists(st.tuples(NAME, st.sampled_from([b"", b"1", b"a, b", b"chunked"])), max_size=8)
RULES = st.builds(
    HeaderRules,
    replace=FIELDS.map(tuple),
    keep_originals=st.booleans(),
    cdn_loop=st.sampled_from([b"", b"me"]),
    forwarded_for=st.builds(ForwardedFor, st.none() | st.integers(0, 2), st.booleans()),
    grip=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(RULES, FIELDS, st.booleans(), st.sampled_from([0, 3, CHUNKED]))
def test_whatever_comes_the_backend_gets_one_host_and_one_framing(
    rules: HeaderRules, fields: Headers, trusted: bool, length: int
) -> None:
    headers = sent(rules, *fields, trusted=trusted)
    head = parse_request(request_bytes(b"POST", b"/", b"a", headers, length), 64)
    assert (head.host, head.length, head.keep_alive) == (b"a", length, True)
    assert names(headers).count(b"X-Forwarded-For") <= 1
    assert trusted or not any(name == b"Grip-Sig" for name in names(headers))
