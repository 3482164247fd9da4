"""A routes file: what its lines mean, and what is said about faulty ones."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import ConfigError
from gripproxy.routes import Route, RouteTable, Target
from gripproxy.routesfile import Complaint, load, parse

BASE = Path("/etc/gripproxy")
OWN_ROUTES = Path(__file__).parents[2] / "conf" / "routes"


def table(text: str) -> RouteTable:
    """The routes in `text`, which has no faults."""
    found, complaints = parse(text, "routes", BASE)
    assert complaints == []
    return found


def route(line: str) -> Route:
    (found,) = table(line).routes
    return found


def target(section: str) -> Target:
    (found,) = route(f"* {section}").targets
    return found


def reasons(text: str) -> list[str]:
    return [complaint.reason for complaint in parse(text, "routes", BASE)[1]]


# Conditions.


def test_a_plain_rule_has_the_defaults() -> None:
    assert route("* localhost:8000") == Route(
        host="*", targets=(Target("localhost", 8000),), line=1
    )


@pytest.mark.parametrize(
    ("line", "host"),
    [
        ("* test", "*"),
        ("example.com test", "example.com"),
        ("id=x test", ""),
        ("::1 test", "::1"),
        ("[::1] test", "::1"),
    ],
)
def test_the_initial_value_is_the_host(line: str, host: str) -> None:
    assert route(line).host == host


@pytest.mark.parametrize(
    ("props", "attribute", "value"),
    [
        ("proto=http", "proto", "http"),
        ("proto=ws", "proto", "ws"),
        ("proto=http,proto=ws", "proto", "ws"),
        ("ssl=yes", "ssl", True),
        ("ssl=no", "ssl", False),
        ("path_beg=/a%20b", "path_beg", b"/a%20b"),
        ("path_beg=/é", "path_beg", b"/\xc3\xa9"),
        ("id=x", "id", "x"),
        ("id=", "id", None),
        ("sig_iss=me", "sig_iss", "me"),
        ("sig_iss=", "sig_iss", None),
        ("sig_key=k", "sig_key", "k"),
        ("sig_key=base64:YQ==", "sig_key", "base64:YQ=="),
        ("sig_key=file:a.pem", "sig_key", "file:/etc/gripproxy/a.pem"),
        ("sig_key=file:/b.pem", "sig_key", "file:/b.pem"),
        ("sig_key=", "sig_key", None),
        ("prefix=p-", "prefix", "p-"),
        ("orig_headers", "orig_headers", True),
        ("orig_headers=false", "orig_headers", True),
        ("as_host=h:1", "as_host", "h:1"),
        ("as_host=", "as_host", None),
        ("path_rem=3", "path_rem", 3),
        ("replace_beg=/b", "replace_beg", b"/b"),
        ("replace_beg=", "replace_beg", b""),
        ("debug", "debug", True),
        ("aco", "cross_origin", True),
        ("jsonp_mode=basic", "jsonp_mode", "basic"),
        ("jsonp_mode=basic", "jsonp_defmethod", "POST"),
        ("jsonp_mode=extended", "jsonp_defmethod", "GET"),
        ("jsonp_mode=basic,jsonp_defmethod=PUT", "jsonp_defmethod", "PUT"),
        ("jsonp_cb=f", "jsonp_cb", "f"),
        ("jsonp_cb=", "jsonp_cb", "callback"),
        ("jsonp_body=b", "jsonp_body", "b"),
        ("jsonp_defcb=d", "jsonp_defcb", "d"),
        (
            'header=A:1,"header=B: 2",header=A:',
            "headers",
            ((b"A", b"1"), (b"B", b"2"), (b"A", b"")),
        ),
        ("no_grip", "no_grip", True),
        ("log_level=1", "log_level", 1),
    ],
)
def test_properties_of_a_condition(props: str, attribute: str, value: object) -> None:
    assert getattr(route(f"*,{props} test"), attribute) == value


def test_properties_of_features_to_come_are_kept_and_told() -> None:
    found, complaints = parse("*,session,sockjs=/s,sockjs_as_path=/t test", "routes", BASE)
    (only,) = found.routes
    assert (only.session, only.sockjs, only.sockjs_as_path) == (True, b"/s", b"/t")
    reasons = [(complaint.reason, complaint.skipped) for complaint in complaints]
    assert reasons == [("session is not in this version yet", False)]


def test_replace_beg_stands_for_path_beg_and_overrides_path_rem() -> None:
    assert route("*,path_beg=/abc,replace_beg=/d,path_rem=1 test").path_rem == 4
    assert route("*,replace_beg=/d,path_rem=1 test").path_rem == 0


# Targets.


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("localhost:8000", Target("localhost", 8000)),
        ("127.0.0.1:65535", Target("127.0.0.1", 65535)),
        ("[::1]:1", Target("::1", 1)),
        ("test", Target(test=True)),
        ("a:1,ssl", Target("a", 1, ssl=True)),
        ("a:1,ssl,insecure", Target("a", 1, ssl=True, insecure=True)),
        ("a:1,host=b:2", Target("a", 1, host_header="b:2")),
        ("a:1,host=", Target("a", 1)),
        ("a:1,trust_connect_host", Target("a", 1, trust_connect_host=True)),
        ("a:1,untrusted", Target("a", 1, untrusted=True)),
        ("a:1,over_http,one_event", Target("a", 1, over_http=True, one_event=True)),
        ("a:1,sub=x,sub=,sub=y", Target("a", 1, subs=("x", "y"))),
        ("a:1,ipc_file_mode=777", Target("a", 1)),
    ],
)
def test_targets(section: str, expected: Target) -> None:
    assert target(section) == expected


def test_several_targets_keep_their_order() -> None:
    assert route("* a:1 b:2,ssl test").targets == (
        Target("a", 1),
        Target("b", 2, ssl=True),
        Target(test=True),
    )


def test_client_certificates_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.crt").write_text("x")
    (tmp_path / "a.key").write_text("x")
    found = target("a:1,ssl,client_cert=a.crt,client_key=a.key")
    assert (found.client_cert, found.client_key) == (tmp_path / "a.crt", tmp_path / "a.key")
    assert target("a:1,client_cert=a.crt").client_key is None
    assert reasons("* a:1,client_key=a.key") == ["client_key needs a client_cert"]


# Faults.


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('*,a="b test', "unterminated quoted section"),
        ("*", "must specify condition and at least one target"),
        (
            "*\ttest",
            "must specify condition and at least one target; only spaces separate them, not tabs",
        ),
        ("*,proto=https test", "proto must be set to 'http' or 'ws'"),
        ("*,proto test", "proto must be set to 'http' or 'ws'"),
        ("*,ssl test", "ssl must be set to 'yes' or 'no'"),
        ("*,jsonp_mode=x test", "jsonp_mode must be set to 'basic' or 'extended'"),
        ("*,path_beg= test", "path_beg cannot be empty"),
        ("*,header=X test", "header must use format 'name:value'"),
        ("*,header=:X test", "header must use format 'name:value'"),
        ('*,header="X Y:1" test', "header must use format 'name:value'"),
        ("*,header=X:a\rb test", "header must not contain control characters"),
        ('*,as_host="a b" test', "as_host must be ASCII without spaces"),
        ('*,replace_beg="/a b" test', "replace_beg must be ASCII without spaces"),
        ('* "a:1,host=b c"', "target '' must be host:port, [IPv6 address]:port or test"),
        ('* a:1,host="b c"', "host must be ASCII without spaces"),
        ("* localhost", "target 'localhost' must be host:port, [IPv6 address]:port or test"),
        ("* ssl", "target 'ssl' must be host:port, [IPv6 address]:port or test"),
        ("* [::1]", "target '[::1]' must be host:port, [IPv6 address]:port or test"),
        ("* :80", "target ':80' has no host"),
        ("* ::1:80", "target '::1:80' has no host"),
        ("* a:", "target 'a:' has no port from 1 to 65535"),
        ("* a:0", "target 'a:0' has no port from 1 to 65535"),
        ("* a:65536", "target 'a:65536' has no port from 1 to 65535"),
        ("* a:80x", "target 'a:80x' has no port from 1 to 65535"),
        ("* a:1 b", "target 'b' must be host:port, [IPv6 address]:port or test"),
        (
            "* a:1,client_cert=/nonexistent/x",
            "cannot read '/nonexistent/x': No such file or directory",
        ),
        ("* a:1,client_cert=a\0b", r"cannot read 'a\x00b': embedded null byte"),
    ],
)
def test_a_faulty_line_is_skipped_with_file_line_and_reason(line: str, reason: str) -> None:
    found, complaints = parse(f"a test\n{line}\nb test", "routes", BASE)
    assert [each.host for each in found.routes] == ["a", "b"]
    assert [each.line for each in found.routes] == [1, 3]
    assert complaints == [Complaint("routes", 2, reason)]
    assert str(complaints[0]) == f"routes:2: {reason}"


@pytest.mark.parametrize("name", ["zhttp/ipc://x", "zhttpreq/tcp://127.0.0.1:5555"])
def test_zhttp_targets_are_refused_by_name(name: str) -> None:
    (reason,) = reasons(f"* {name}")
    assert reason == (
        f"target {name!r}: zhttp is a transport between Pushpin and its own kind of workers, "
        "which gripproxy does not speak; write the backend's HTTP address, host:port"
    )


def test_the_second_of_two_equal_conditions_is_dropped() -> None:
    found, complaints = parse("* a:1\nb a:1\n*,debug,id=x b:2", "routes", BASE)
    assert [each.host for each in found.routes] == ["*", "b"]
    assert [str(each) for each in complaints] == [
        "routes:3: duplicate condition: line 1 has the same"
    ]
    assert found.by_id("x", b"/") is None


def test_conditions_that_differ_in_anything_are_not_equal() -> None:
    text = "* test\n*,proto=ws test\n*,ssl=no test\n*,path_beg=/ test\na test\nid=x test\nid=y test"
    assert len(table(text).routes) == 7


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "*,dbug test",
            "property 'dbug' of a condition is unknown and ignored; did you mean 'debug'?",
        ),
        ("*,zzz=1 test", "property 'zzz' of a condition is unknown and ignored"),
        (
            "* a:1,prefix=x",
            "property 'prefix' of a target is unknown and ignored; it belongs to a condition",
        ),
        (
            "*,over_http a:1",
            "property 'over_http' of a condition is unknown and ignored; it belongs to a target",
        ),
        ("*,path_rem=x test", "path_rem='x' is ignored: it must be a whole number"),
        ("*,path_rem=-1 test", "path_rem='-1' is ignored: it must be a whole number"),
        ("*,log_level test", "log_level='' is ignored: it must be a whole number"),
        (
            "A.com test",
            "host 'A.com' never matches: write a whole name, in lower case and without a port",
        ),
        (
            "a:80 test",
            "host 'a:80' never matches: write a whole name, in lower case and without a port",
        ),
        (
            "*.a test",
            "host '*.a' never matches: write a whole name, in lower case and without a port",
        ),
    ],
)
def test_a_slip_is_told_but_the_line_counts(line: str, reason: str) -> None:
    found, complaints = parse(line, "routes", BASE)
    assert len(found.routes) == 1
    assert complaints == [Complaint("routes", 1, reason, False)]


# Files.


def test_comments_empty_lines_and_line_ends_of_any_kind() -> None:
    found = table("\ufeff# first\r\n\r\n* test\r\n  # last\na test")
    assert [(each.host, each.line) for each in found.routes] == [("*", 3), ("a", 5)]


def test_a_file_is_read_as_bytes_and_its_keys_are_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "routes"
    path.write_bytes(b"*,path_beg=/\xff,sig_key=file:k test\nwhat")
    found, complaints = load(path)
    assert found.routes[0].path_beg == b"/\xff"
    assert found.routes[0].sig_key == f"file:{tmp_path}/k"
    assert [complaint.source for complaint in complaints] == [str(path)]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none: routes cannot be read: No such file"):
        load(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"routes cannot be read: embedded null"):
        load(tmp_path / "a\0")


def test_our_own_file_sends_everything_to_the_test_handler() -> None:
    found, complaints = load(OWN_ROUTES)
    assert complaints == []
    (only,) = found.routes
    assert (only.host, only.targets) == ("*", (Target(test=True),))


def test_the_examples_in_our_own_file_are_right() -> None:
    lines = OWN_ROUTES.read_text().splitlines()
    examples = [line[4:] for line in lines if line.startswith("#   ") and " localhost" in line]
    assert len(examples) == 6
    assert len(table("\n".join(examples)).routes) == 6


WORDS = st.sampled_from(
    ["*", "a", "test", "a:1", "[::1]:2", "path_beg=/", "ssl", "ssl=no", "id=x", "header=X:",
     "sub=é", "client_key=x", "zhttp/a", '"', '"b c"', "\\", "#", "\t", "path_rem=1", "\x00", "=",
     "host=\x7f"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(WORDS, st.sampled_from([",", " ", "\n", ""])), max_size=24))
def test_garbage_yields_only_complaints(parts: list[tuple[str, str]]) -> None:
    text = "".join(word + separator for word, separator in parts)
    found, complaints = parse(text, "routes", BASE)
    lines = len(text.split("\n"))
    assert all(1 <= complaint.line <= lines and complaint.reason for complaint in complaints)
    skipped = {complaint.line for complaint in complaints if complaint.skipped}
    assert skipped.isdisjoint(each.line for each in found.routes)
    assert all(each.targets for each in found.routes)
