"""What `gripproxy check` prints."""

from pathlib import Path

from gripproxy.check import describe
from gripproxy.config import Options, load
from gripproxy.routesfile import parse

ROUTES = r"""
* localhost:8000 [::1]:8001,ssl,insecure,host=h:1,over_http,one_event,sub=c,sub=d
a.com,path_beg=/api,proto=ws,ssl=yes,id=x,replace_beg=/v2 test
b.com,proto=http,ssl=no,path_rem=2,sig_iss=me,sig_key=secret,prefix=p-,as_host=h test
c.com,header=A:1,header=B:,debug,aco,no_grip,orig_headers a:1,untrusted,trust_connect_host
id=y,path_beg=/z,replace_beg= test
"""


def lines(text: str, start: str) -> list[str]:
    """The indented lines below the one that begins with `start`."""
    found = text.splitlines()
    index = next(n for n, line in enumerate(found) if line.startswith(start)) + 1
    end = next((n for n in range(index, len(found)) if not found[n].startswith(" ")), len(found))
    return [line[2:] for line in found[index:end]]


def test_without_a_file() -> None:
    config, _ = load(None)
    table, _ = parse("", "routes", Path())
    assert describe(config, table).splitlines() == [
        "configuration: none, built-in settings",
        "clients:",
        "  http on port 7999 of every address",
        "publishing:",
        "  http on 127.0.0.1:5561",
        "  ZeroMQ PULL, bound to tcp://127.0.0.1:5560",
        "  ZeroMQ SUB, bound to tcp://127.0.0.1:5562",
        "signing:",
        "  requests to backends are not signed",
        "settings that differ from the defaults:",
        "  [proxy] set_x_forwarded_protocol = proto-only (default none)",
        "routes: 0, from nowhere: every request gets 502",
    ]


def test_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pushpin.conf"
    path.write_text(
        "[global]\nrundir=r\n[runner]\nhttp_port=127.0.0.1:80\nhttps_ports=443\n"
        "local_ports=a,b?mode=660&user=u&group=g\nlog_level=1,proxy:3\nclient_idle_timeout=0.5\n"
        "allow_compression=true\n"
        "[proxy]\nroutesfile=routes\nsig_key=secret\nupstream_key=secret\ndebug=true\n"
        "x_forwarded_for=truncate:0,append\nx_forwarded_for_trusted=append\n"
        "orig_headers_need_mark=A,B\n"
        "[handler]\npush_in_sub_specs=tcp://a:1\npush_in_sub_connect=true\nmessage_rate=5\n"
        "push_in_http_port=1\n"
    )
    config, _ = load(path)
    text = describe(config, parse("", "routes", Path())[0])
    assert text.splitlines()[0] == f"configuration: {path}"
    assert lines(text, "clients") == [
        "http on 127.0.0.1:80",
        f"https on port 443 of every address, certificates in {tmp_path}/runner/certs",
        "http on the Unix socket a",
        "http on the Unix socket b, mode 660, user u, group g",
    ]
    assert lines(text, "publishing") == [
        "http on port 1 of every address",
        "ZeroMQ SUB, connected to tcp://a:1",
    ]
    assert lines(text, "signing") == [
        "requests to backends are signed as 'pushpin'",
        "requests that are signed with upstream_key are trusted",
    ]
    assert lines(text, "settings") == [
        "[global] rundir = r (default run)",
        "[runner] log_level = 1,proxy:3 (default 2)",
        "[runner] allow_compression = true (default false)",
        "[runner] client_idle_timeout = 0.5 (default 60)",
        "[proxy] debug = true (default false)",
        "[proxy] x_forwarded_for = truncate:0,append (default none)",
        "[proxy] x_forwarded_for_trusted = append (default none)",
        "[proxy] orig_headers_need_mark = a,b (default none)",
        "[handler] message_rate = 5 (default none)",
    ]
    assert f"routes: 0, from {tmp_path}/routes" in text
    assert "secret" not in text


def test_nothing_to_say_is_said(tmp_path: Path) -> None:
    path = tmp_path / "pushpin.conf"
    path.write_text("[runner]\nhttp_port=1")
    text = describe(load(path)[0], parse("", "routes", Path())[0])
    assert lines(text, "publishing") == ["none"]
    assert lines(text, "settings") == ["none"]


def test_each_route_with_its_targets() -> None:
    table, complaints = parse(ROUTES, "routes", Path())
    assert complaints == []
    text = describe(load(None, Options(routes=("x",)))[0], table)
    assert lines(text, "routes: 5, from the command line") == [
        "line 2: any host",
        "  to localhost:8000",
        "  to [::1]:8001, as host h:1, TLS, any certificate, WebSocket over HTTP, "
        "one event for each request, channel c, channel d",
        "line 3: a.com, path from /api, WebSocket only, TLS only "
        "(id x; path begins with /v2 instead)",
        "  to test",
        "line 4: b.com, HTTP only, without TLS only (signed as 'me'; a key of its own; "
        "channel prefix 'p-'; as host h; path without its first 2 bytes)",
        "  to test",
        "line 5: c.com (header A set; header B removed; orig_headers; debug; aco; no_grip)",
        "  to a:1, certificate for the connect host, public addresses only",
        "line 6: no host, only by id, path from /z (id y; path begins with / instead)",
        "  to test",
    ]
    assert "secret" not in text


def test_bytes_that_are_no_utf_8_can_be_printed() -> None:
    table, _ = parse("*,path_beg=/\udcff test", "routes", Path())
    assert "path from /\\udcff" in describe(load(None)[0], table)
