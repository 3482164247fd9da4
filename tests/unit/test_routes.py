"""Which route a request takes, and what it does to the path."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.routes import Route, RouteTable, Target, bare_host, normalize_path, rewrite

TARGETS = (Target("localhost", 8000),)


def table(*lines: str) -> RouteTable:
    """Routes from `host[,name=value...]`, each with the line's number."""
    return RouteTable(route(text, number) for number, text in enumerate(lines, 1))


def route(text: str, line: int = 0) -> Route:
    host, *rest = text.split(",")
    props = dict(prop.split("=") for prop in rest)
    ssl = props.get("ssl")
    return Route(
        host=host,
        targets=TARGETS,
        proto=props.get("proto"),
        ssl=None if ssl is None else ssl == "yes",
        path_beg=props.get("path_beg", "").encode(),
        id=props.get("id"),
        line=line,
    )


def matched(
    routes: RouteTable,
    host: str = "a",
    path: bytes = b"/",
    *,
    ssl: bool = False,
    websocket: bool = False,
) -> int | None:
    """The line that a request takes."""
    found = routes.match(host, path, ssl=ssl, websocket=websocket)
    return None if found is None else found.line


# Hosts.


def test_a_table_without_routes_matches_nothing() -> None:
    assert matched(RouteTable()) is None


def test_an_asterisk_matches_any_host() -> None:
    assert matched(table("*"), "example.com") == 1


def test_a_name_matches_that_host_before_the_asterisk() -> None:
    routes = table("*", "a.com")
    assert matched(routes, "a.com") == 2
    assert matched(routes, "b.com") == 1


def test_a_host_that_a_route_names_never_falls_back_to_the_asterisk() -> None:
    routes = table("*", "a.com,path_beg=/x", "b.com,proto=ws")
    assert matched(routes, "a.com", b"/y") is None
    assert matched(routes, "b.com") is None
    assert matched(routes, "c.com", b"/y") == 1


def test_names_are_whole() -> None:
    assert matched(table("a.com"), "b.a.com") is None


@pytest.mark.parametrize("host", ["A.com", "a.com:8080", "A.COM:80"])
def test_a_requests_host_may_have_any_case_and_any_port(host: str) -> None:
    assert matched(table("*", "a.com"), host) == 2


def test_a_route_without_a_host_is_reached_by_its_id_only() -> None:
    routes = table(",id=x")
    assert matched(routes, "") is None
    assert routes.by_id("x", b"/") is routes.routes[0]


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a", "a"),
        ("A:80", "a"),
        ("[::1]:80", "::1"),
        ("[::A]", "::a"),
        ("[::1", "::1"),
        ("", ""),
        (":80", ""),
    ],
)
def test_the_bare_host_of_an_authority(authority: str, host: str) -> None:
    assert bare_host(authority) == host


# Protocol, TLS and path.


@pytest.mark.parametrize(("proto", "websocket"), [("http", False), ("ws", True)])
def test_proto_matches_one_protocol(proto: str, websocket: bool) -> None:
    routes = table(f"*,proto={proto}")
    assert matched(routes, websocket=websocket) == 1
    assert matched(routes, websocket=not websocket) is None


@pytest.mark.parametrize(("ssl", "secure"), [("no", False), ("yes", True)])
def test_ssl_matches_with_or_without_tls(ssl: str, secure: bool) -> None:
    routes = table(f"*,ssl={ssl}")
    assert matched(routes, ssl=secure) == 1
    assert matched(routes, ssl=not secure) is None


def test_path_beg_is_a_prefix_of_bytes() -> None:
    routes = table("*,path_beg=/ab")
    assert matched(routes, path=b"/ab") == 1
    assert matched(routes, path=b"/abc/d") == 1
    assert matched(routes, path=b"/a") is None
    assert matched(routes, path=b"/AB") is None


def test_a_query_does_not_count() -> None:
    routes = table("*", "*,path_beg=/a?b")
    assert matched(routes, path=b"/a?b") == 1


def test_the_longer_path_wins_wherever_it_stands() -> None:
    assert matched(table("*,path_beg=/a", "*,path_beg=/ab", "*"), path=b"/abc") == 2
    assert matched(table("*,path_beg=/ab", "*,path_beg=/a", "*"), path=b"/abc") == 1
    assert matched(table("*,path_beg=/ab", "*,path_beg=/a", "*"), path=b"/b") == 3


def test_a_protocol_beats_a_longer_path() -> None:
    assert matched(table("*,path_beg=/abc", "*,proto=http"), path=b"/abc") == 2
    assert matched(table("*,proto=http", "*,path_beg=/abc"), path=b"/abc") == 1
    assert matched(table("*,proto=http", "*,proto=http,path_beg=/a"), path=b"/abc") == 2


def test_a_later_condition_on_tls_beats_an_earlier_longer_path() -> None:
    assert matched(table("*,path_beg=/abc", "*,ssl=no"), path=b"/abc") == 2


def test_a_later_longer_path_beats_an_earlier_condition_on_tls() -> None:
    assert matched(table("*,ssl=no", "*,path_beg=/abc"), path=b"/abc") == 2


def test_a_condition_on_tls_beats_none_wherever_it_stands() -> None:
    assert matched(table("*", "*,ssl=no")) == 2
    assert matched(table("*,ssl=no", "*")) == 1


CONDITIONS = st.tuples(
    st.sampled_from(["*", "a", "b"]),
    st.sampled_from(["", ",proto=http", ",proto=ws"]),
    st.sampled_from(["", ",ssl=yes", ",ssl=no"]),
    st.sampled_from(["", ",path_beg=/", ",path_beg=/a", ",path_beg=/ab", ",path_beg=/b"]),
).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(CONDITIONS, unique=True, max_size=12),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from([b"/", b"/a", b"/abc", b"/b?/a"]),
    st.booleans(),
    st.booleans(),
)
def test_the_choice_is_pushpins(
    lines: list[str], host: str, path: bytes, ssl: bool, websocket: bool
) -> None:
    """Pushpin goes through the rules of the host in order and keeps the best so far."""
    routes = table(*lines)
    named = [each for each in routes.routes if each.host == host]
    best: Route | None = None
    for each in named or [each for each in routes.routes if each.host == "*"]:
        if each.proto not in (None, "ws" if websocket else "http") or each.ssl not in (None, ssl):
            continue
        if not path.partition(b"?")[0].startswith(each.path_beg):
            continue
        if best is None or (best.proto is None and each.proto is not None):
            best = each
        elif best.proto is not None and each.proto is None:
            continue
        elif len(each.path_beg) > len(best.path_beg) or (best.ssl is None and each.ssl is not None):
            best = each
    assert routes.match(host, path, ssl=ssl, websocket=websocket) is best


# By id.


def test_a_route_is_found_by_its_id_whatever_the_host() -> None:
    routes = table("a.com,id=x", "b.com")
    assert routes.by_id("x", b"/") is routes.routes[0]
    assert routes.by_id("y", b"/") is None


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("*", "*,*,*,*"),
        ("a.com,proto=ws,path_beg=/x", "a.com,ws,*,/x"),
        ("a.com,ssl=no", "a.com,*,ssl,*"),
        ("a.com,ssl=yes", "a.com,*,no-ssl,*"),
        (",path_beg=/x", "*,*,*,/x"),
        ("a.com,id=x", "x"),
    ],
)
def test_a_route_without_an_id_has_one_made_from_its_condition(line: str, key: str) -> None:
    routes = table(line)
    assert routes.routes[0].key == key
    assert routes.by_id(key, b"/x") is routes.routes[0]


def test_by_id_path_beg_must_match_too() -> None:
    routes = table("*,id=x,path_beg=/a")
    assert routes.by_id("x", b"/ab?c") is routes.routes[0]
    assert routes.by_id("x", b"/b?/a") is None
    assert routes.by_id("x", b"/b/../a") is routes.routes[0]


@pytest.mark.parametrize("times", [2, 3])
def test_an_id_that_several_routes_have_finds_none(times: int) -> None:
    routes = table(*["a.com,id=x", "b.com,id=x", "c.com,id=x"][:times], "d.com,id=y")
    assert routes.by_id("x", b"/") is None
    assert routes.is_shared("x")
    assert not routes.is_shared("y")
    assert matched(routes, "a.com") == 1


# Paths.


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"", b""),
        (b"*", b"*"),
        (b"/a/b", b"/a/b"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/..", b"/"),
        (b"/a/.", b"/a/"),
        (b"/a/b/..", b"/a/"),
        (b"/../../a", b"/a"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/a/%2e/b", b"/a/b"),
        (b"/a\\..\\b", b"/b"),
        (b"/a//../b", b"/a/b"),
        (b"/a/.../b", b"/a/.../b"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a%20b%2f..", b"/a%20b%2f.."),
        (b"a/../b", b"a/../b"),
    ],
)
def test_dot_segments_are_resolved(path: bytes, normal: bytes) -> None:
    assert normalize_path(path) == normal


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([b"a", b".", b"..", b"%2e", b"%2E.", b"", b"\\"]), max_size=8))
def test_a_normal_path_has_no_dot_segments_and_stays_as_it_is(segments: list[bytes]) -> None:
    normal = normalize_path(b"/" + b"/".join(segments))
    assert normal.startswith(b"/")
    assert not {b".", b"..", b"%2e", b"%2E."} & set(normal.split(b"/"))
    assert normalize_path(normal) == normal


def test_routes_are_matched_by_the_resolved_path() -> None:
    routes = table("*", "*,path_beg=/admin")
    assert matched(routes, path=b"/x/../admin") == 2
    assert matched(routes, path=b"/x/%2e%2e/admin") == 2
    assert matched(routes, path=b"/admin/../x?/admin") == 1


def rewriting(path_rem: int = 0, replace_beg: bytes | None = None, path_beg: bytes = b"") -> Route:
    return Route(
        host="*",
        targets=TARGETS,
        path_beg=path_beg,
        path_rem=path_rem,
        replace_beg=replace_beg,
    )


@pytest.mark.parametrize(
    ("route", "path", "result"),
    [
        (rewriting(), b"/a/../b?c", b"/a/../b?c"),
        (rewriting(), b"*", b"*"),
        (rewriting(2), b"/a/b?c=/d", b"/b?c=/d"),
        (rewriting(1), b"/a", b"/a"),
        (rewriting(2), b"/a", b"/"),
        (rewriting(9), b"/a?b", b"/?b"),
        (rewriting(2, b"/x", b"/a"), b"/a/b?c", b"/x/b?c"),
        (rewriting(2, b"/x", b"/a"), b"/ab", b"/xb"),
        (rewriting(2, b"", b"/a"), b"/a/b", b"/b"),
        (rewriting(2, b"", b"/a"), b"/a", b"/"),
        (rewriting(2, b"x", b"/a"), b"/a/b", b"/x/b"),
        (rewriting(0, b"/x"), b"/a?b", b"/x/a?b"),
        (rewriting(2, b"/x", b"/a"), b"/c/../a/b?/../d", b"/x/b?/../d"),
    ],
)
def test_paths_are_rewritten(route: Route, path: bytes, result: bytes) -> None:
    assert rewrite(route, path) == result


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20), st.integers(0, 9), st.binary(max_size=4))
def test_a_rewritten_path_begins_with_a_slash_and_keeps_its_query(
    path: bytes, path_rem: int, replace_beg: bytes
) -> None:
    result = rewrite(rewriting(path_rem, replace_beg), path + b"?q")
    assert result.endswith(b"?q")
    if path_rem or replace_beg:
        assert result.startswith(b"/")


# Targets.


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target("localhost", 8000), "localhost:8000"),
        (Target("::1", 8000), "[::1]:8000"),
        (Target(test=True), "test"),
    ],
)
def test_the_name_of_a_target(target: Target, name: str) -> None:
    assert target.name == name
