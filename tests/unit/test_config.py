"""pushpin.conf and gripproxy.conf, and the options that change them."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy import config as module
from gripproxy.config import (
    Config,
    ForwardedFor,
    LogLevels,
    Notice,
    Options,
    TcpAddress,
    UnixAddress,
    candidates,
    find_config,
    load,
)
from gripproxy.errors import ConfigError
from gripproxy.notices import NOT_YET
from gripproxy.settings import SECTIONS, readers

OWN_CONF = Path(__file__).parents[2] / "conf" / "gripproxy.conf"

# What follows the text of a test: it changes no line number.
PORT = "\n[runner]\nhttp_port=7999\n"

NO_OPTIONS = Options()

Load = Callable[..., tuple[Config, list[Notice]]]


@pytest.fixture
def conf(tmp_path: Path) -> Load:
    """Load a pushpin.conf with this text; the client port is set unless `port` says otherwise."""

    def load_text(
        text: str, options: Options = NO_OPTIONS, *, port: str = PORT
    ) -> tuple[Config, list[Notice]]:
        path = tmp_path / "pushpin.conf"
        path.write_text(text + port)
        return load(path, options)

    return load_text


def get(config: Config, section: str, name: str) -> Any:
    return getattr(getattr(config, "global_" if section == "global" else section), name)


def texts(notices: list[Notice], level: str = "warning") -> list[str]:
    return [notice.text for notice in notices if notice.level == level]


# Where values come from.


def test_without_a_file_the_control_inputs_are_on_this_machine_only() -> None:
    config, notices = load(None)
    assert config.path is None
    assert config.runner.http_port == (TcpAddress("", 7999),)
    assert config.handler.push_in_http == TcpAddress("127.0.0.1", 5561)
    assert config.handler.push_in_spec == "tcp://127.0.0.1:5560"
    assert config.handler.push_in_sub_specs == ("tcp://127.0.0.1:5562",)
    assert config.base_dir == Path.cwd()
    assert config.proxy.routesfile is None
    assert notices == []


def test_in_a_file_absent_keys_have_the_defaults_of_pushpins_code(conf: Load) -> None:
    config, notices = conf("")
    handler = config.handler
    assert handler.push_in_http is None
    assert handler.push_in_spec == ""
    assert handler.push_in_sub_specs == ()
    assert config.proxy.set_x_forwarded_protocol == "none"
    assert (config.proxy.sig_iss, config.proxy.sig_key) == ("pushpin", "")
    assert config.runner.client_maxconn == 50_000
    assert notices == []


def test_message_rate_and_hwm_are_unlimited_and_ids_are_kept_for_60_s_by_default(
    conf: Load,
) -> None:
    handler = conf("")[0].handler
    assert (handler.message_rate, handler.message_hwm, handler.id_cache_ttl) == (None, None, 60)


def test_the_main_file_counts_before_the_included_one_even_if_empty(
    conf: Load, tmp_path: Path
) -> None:
    (tmp_path / "more.conf").write_text("[proxy]\nsig_key=theirs\nsig_iss=theirs\ncdn_loop=theirs")
    config, _ = conf("[global]\ninclude=more.conf\n[proxy]\nsig_key=\nsig_iss=ours")
    assert config.proxy.sig_key == ""
    assert config.proxy.sig_iss == "ours"
    assert config.proxy.cdn_loop == "theirs"


def test_an_include_is_relative_to_the_file_and_may_use_libdir(conf: Load, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "more.conf").write_text("[proxy]\nsig_iss=x")
    assert conf("[global]\nlibdir=lib\ninclude={libdir}/more.conf")[0].proxy.sig_iss == "x"


@pytest.mark.parametrize("include", ["internal.conf", "{libdir}/internal.conf", "a/internal.conf"])
def test_internal_conf_may_be_missing(conf: Load, include: str) -> None:
    config, notices = conf(f"[global]\nlibdir=/nowhere\ninclude={include}")
    assert config.runner.http_port == (TcpAddress("", 7999),)
    assert notices == []


def test_internal_conf_is_not_worth_a_notice(conf: Load, tmp_path: Path) -> None:
    (tmp_path / "internal.conf").write_text(
        "[proxy]\ncondure_in_specs=ipc://a\nstats_spec=ipc://b\n"
        "[handler]\nproxy_inspect_spec=ipc://c\nm2a_out_specs=ipc://d,ipc://e"
    )
    assert conf("[global]\ninclude=./internal.conf")[1] == []
    assert conf(f"[global]\nlibdir={tmp_path}\ninclude=internal.conf")[1] == []


def test_another_include_that_is_missing_stops_the_start(conf: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        conf("[global]\n\ninclude=more.conf")
    place = f"{tmp_path}/pushpin.conf:3: include: {tmp_path}/more.conf: cannot be read: "
    assert str(caught.value) == place + "No such file or directory"


def test_a_wrong_value_in_an_include_names_that_file(conf: Load, tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("[runner]\n\nclient_maxconn=many")
    with pytest.raises(ConfigError, match=r"more\.conf:3: client_maxconn: must be a whole number"):
        conf("[global]\ninclude=more.conf")
    (tmp_path / "more.conf").write_text("what")
    with pytest.raises(ConfigError, match=r"more\.conf:1: expected key=value"):
        conf("[global]\ninclude=more.conf")


def test_a_file_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.conf: cannot be read"):
        load(tmp_path / "none.conf")


def test_a_file_is_looked_for_where_pushpin_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "etc" / "pushpin.conf"
    monkeypatch.setattr(module, "_SYSTEM_FILES", (system,))
    assert find_config(tmp_path) is None
    found = candidates(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "config/gripproxy.conf",
        "config/pushpin.conf",
        "gripproxy.conf",
        "pushpin.conf",
        "examples/config/gripproxy.conf",
        "examples/config/pushpin.conf",
        "etc/pushpin.conf",
    ]
    for path in reversed(found):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        assert find_config(tmp_path) == path


# Substitutions, and the offset of ports.


def test_values_may_refer_to_libdir_rundir_and_ipc_prefix(conf: Load) -> None:
    config, _ = conf(
        "[global]\nlibdir=/l\nrundir=/r\nipc_prefix=p-\n"
        "[handler]\npush_in_spec=ipc://{rundir}/{ipc_prefix}in\n"
        "push_in_sub_specs=ipc://{libdir}/a, ipc://{rundir}/b\n"
        "[runner]\nlocal_ports={rundir}/{ipc_prefix}server"
    )
    assert config.handler.push_in_spec == "ipc:///r/p-in"
    assert config.handler.push_in_sub_specs == ("ipc:///l/a", "ipc:///r/b")
    assert config.runner.local_ports == (UnixAddress(Path("/r/p-server")),)


def test_they_have_defaults(conf: Load) -> None:
    config, _ = conf("[handler]\npush_in_spec=ipc://{rundir}/{ipc_prefix}in")
    assert config.handler.push_in_spec == "ipc://run/pushpin-in"
    assert config.global_.rundir == "run"


def test_an_empty_ipc_prefix_is_empty(conf: Load) -> None:
    config, _ = conf("[global]\nipc_prefix=\n[handler]\npush_in_spec=ipc://{rundir}/{ipc_prefix}x")
    assert config.handler.push_in_spec == "ipc://run/x"


def test_rundir_may_stand_in_runner_as_it_used_to(conf: Load) -> None:
    config, notices = conf("[runner]\nrundir=/old\nlocal_ports={rundir}/x")
    assert config.global_.rundir == "/old"
    assert config.runner.local_ports == (UnixAddress(Path("/old/x")),)
    assert notices == []
    assert conf("[global]\nrundir=/new\n[runner]\nrundir=/old")[0].global_.rundir == "/new"


def test_port_offset_moves_tcp_specs_and_the_http_control_port_only(conf: Load) -> None:
    config, _ = conf(
        "[global]\nport_offset=100\n[handler]\npush_in_spec=tcp://127.0.0.1:5560\n"
        "push_in_sub_specs=tcp://*:1,tcp://[::1]:2,ipc://a:3\npush_in_http_addr=127.0.0.1\n"
        "push_in_http_port=5561\nprometheus_port=9000"
    )
    handler = config.handler
    assert handler.push_in_spec == "tcp://127.0.0.1:5660"
    assert handler.push_in_sub_specs == ("tcp://*:101", "tcp://[::1]:102", "ipc://a:3")
    assert handler.push_in_http == TcpAddress("127.0.0.1", 5661)
    assert handler.prometheus_port == TcpAddress("", 9000)
    assert config.runner.http_port == (TcpAddress("", 7999),)


@pytest.mark.parametrize("key", ["push_in_http_port=60000", "push_in_spec=tcp://*:60000"])
def test_an_offset_must_not_move_a_port_out_of_range(conf: Load, key: str) -> None:
    with pytest.raises(ConfigError, match=r"conf:4: .*: port 60000 moved by 6000 is not from 1"):
        conf(f"[global]\nport_offset=6000\n[handler]\n{key}")


def test_paths_in_the_file_are_relative_to_it(conf: Load, tmp_path: Path) -> None:
    config, _ = conf("[proxy]\nroutesfile=routes\nsig_key=file:a.pem\nupstream_key=file:/b.pem")
    assert config.base_dir == tmp_path
    assert config.proxy.routesfile == tmp_path / "routes"
    assert config.proxy.sig_key == f"file:{tmp_path}/a.pem"
    assert config.proxy.upstream_key == "file:/b.pem"
    assert config.runner.certs_dir == tmp_path / "runner" / "certs"
    assert conf("[proxy]\nroutesfile=/etc/routes")[0].proxy.routesfile == Path("/etc/routes")
    assert conf("[proxy]\nroutesfile=")[0].proxy.routesfile is None


# Values.


@pytest.mark.parametrize(
    ("section", "line", "expected"),
    [
        ("runner", "http_port=8000, 127.0.0.1:8001,[::1]:8002,localhost:8003",
         (TcpAddress("", 8000), TcpAddress("127.0.0.1", 8001), TcpAddress("::1", 8002),
          TcpAddress("localhost", 8003))),
        ("runner", "https_ports=443,1.2.3.4:5", (TcpAddress("", 443), TcpAddress("1.2.3.4", 5))),
        ("runner", 'https_ports="443, 444"', (TcpAddress("", 443), TcpAddress("", 444))),
        ("runner", "local_ports=a/b?mode=660&user=u&group=g,/c, unix:/d?mode=0777",
         (UnixAddress(Path("a/b"), 0o660, "u", "g"), UnixAddress(Path("/c")),
          UnixAddress(Path("/d"), 0o777))),
        ("runner", "log_level=", LogLevels(2)),
        ("runner", "log_level=3", LogLevels(3)),
        ("runner", "log_level=connmgr:0,1,pushpin-proxy:3,pushpin-handler:4,zurl:9,condure: 2",
         LogLevels(1, (("connmgr", 2), ("proxy", 3), ("handler", 4)))),
        ("runner", "client_buffer_size=1", 1),
        ("runner", "allow_compression=false", False),
        ("runner", "allow_compression=true", True),
        ("runner", "ws_queue_bytes=1000", 1000),
        ("runner", "ws_close_timeout=0.5", 0.5),
        ("runner", "client_queue_full=drop", "drop"),
        ("runner", "client_queue_full=", "close"),
        ("runner", "client_idle_timeout=0.5", 0.5),
        ("proxy", "debug=true", True),
        ("proxy", "debug=1", True),
        ("proxy", "debug=Yes", True),
        ("proxy", "debug=on", True),
        ("proxy", "debug=FALSE", False),
        ("proxy", "debug=0", False),
        ("proxy", "debug=", False),
        ("proxy", "set_x_forwarded_protocol=true", "true"),
        ("proxy", "set_x_forwarded_protocol=proto-only", "proto-only"),
        ("proxy", "set_x_forwarded_protocol=false", "none"),
        ("proxy", "set_x_forwarded_protocol=", "none"),
        ("proxy", "x_forwarded_for=", ForwardedFor()),
        ("proxy", "x_forwarded_for=truncate:0,append", ForwardedFor(0, True)),
        ("proxy", 'x_forwarded_for="truncate:0,append"', ForwardedFor(0, True)),
        ("proxy", "x_forwarded_for_trusted=truncate:12", ForwardedFor(12, False)),
        ("proxy", "x_forwarded_for_trusted=append", ForwardedFor(None, True)),
        ("proxy", "orig_headers_need_mark=Host, X-Forwarded-For", ("host", "x-forwarded-for")),
        ("proxy", "cdn_loop=a; b", "a"),
        ("proxy", 'cdn_loop="a, b; c"', "a, b; c"),
        ("proxy", "cdn_loop=a, b", "a, b"),
        ("proxy", "max_open_requests=-1", None),
        ("proxy", "max_open_requests=10", 10),
        ("proxy", "prometheus_port=127.0.0.1:9000", TcpAddress("127.0.0.1", 9000)),
        ("proxy", "prometheus_port=ipc://a/b", UnixAddress(Path("a/b"))),
        ("proxy", "prometheus_port=", None),
        ("handler", "ipc_file_mode=777", 0o777),
        ("handler", "ipc_file_mode=-1", None),
        ("handler", "push_in_spec=tcp://*:5560", "tcp://*:5560"),
        ("handler", "push_in_spec=tcp://[::1]:5560", "tcp://[::1]:5560"),
        ("handler", "push_in_spec=", ""),
        ("handler", "push_in_sub_specs=", ()),
        ("handler", "push_in_http_addr=::1", "::1"),
        ("handler", "push_in_http_addr=[::1]", "::1"),
        ("handler", "push_in_http_addr=localhost", "localhost"),
        ("handler", "push_in_http_port=0", None),
        ("handler", "push_in_http_port=", None),
        ("handler", "message_rate=0", None),
        ("handler", "message_rate=", None),
        ("handler", "message_rate=-1", None),
        ("handler", "message_rate=+2500", 2500),
        ("handler", "message_hwm=25000", 25000),
        ("handler", "message_wait=", 0),
        ("handler", "id_cache_ttl=0", 0),
        ("handler", "stats_report_interval=-1", None),
        ("handler", "stats_format=JSON", "json"),
        ("handler", "stats_format=", "tnetstring"),
        ("handler", "publish_queue_max=5", 5),
        ("handler", "publish_queue_bytes=5", 5),
    ],
)  # fmt: skip
def test_values_are_read(conf: Load, section: str, line: str, expected: object) -> None:
    config, _ = conf(f"[{section}]\n{line}", port="\n[runner]\nlocal_ports=x\n"
                     if line.startswith("http") else PORT)  # fmt: skip
    assert get(config, section, line.partition("=")[0]) == expected


@pytest.mark.parametrize(
    ("section", "line", "reason"),
    [
        ("global", "port_offset=x", "must be a whole number from -65535 to 65535"),
        ("runner", "https_ports=x", "'x' must be a port, address:port or [IPv6 address]:port"),
        ("runner", "https_ports=::1:80", "'::1:80' must be a port, address:port or [IPv6"),
        ("runner", "https_ports=[x:y]:80", "'x:y' is no IPv6 address"),
        ("runner", "https_ports=[x]:80", "'x' is no IPv6 address"),
        ("runner", "https_ports=*:80", "'*' is no address"),
        ("runner", "https_ports=0", "port must be greater than or equal to 1"),
        ("runner", "https_ports=-1", "port must be greater than or equal to 1"),
        ("runner", "https_ports=65536", "port must be less than or equal to 65535"),
        ("runner", "local_ports=a?mode=8", "'8' is no octal file mode, such as 660"),
        ("runner", "local_ports=a?x=y", "x=y is none of mode=OCTAL, user=NAME and group=NAME"),
        ("runner", "local_ports=?mode=600", "a path is missing"),
        ("runner", "log_level=x", "log level must be greater than or equal to 0"),
        ("runner", "log_level=-1", "log level must be greater than or equal to 0"),
        ("runner", "log_level=proxy:", "log level for service proxy must be greater than or"),
        ("runner", "log_level=prox:1", "no service is called 'prox'; connmgr, proxy, handler"),
        ("runner", "client_maxconn=0", "must be a whole number of at least 1"),
        ("runner", "client_maxconn=", "must be a whole number of at least 1"),
        ("runner", "client_maxconn=1e3", "must be a whole number of at least 1"),
        ("runner", "client_maxconn=2147483648", "must be a whole number of at least 1"),
        ("runner", "client_queue_full=wait", "must be one of close, drop"),
        ("runner", "client_idle_timeout=0", "must be a number of seconds above 0"),
        ("runner", "client_idle_timeout=-1", "must be a number of seconds above 0"),
        ("runner", "client_idle_timeout=inf", "must be a number of seconds above 0"),
        ("runner", "client_idle_timeout=", "must be a number of seconds above 0"),
        ("proxy", "debug=no", "must be true or false"),
        ("proxy", "debug=off", "must be true or false"),
        ("proxy", "set_x_forwarded_protocol=yes", "must be one of none, false, proto-only, true"),
        ("proxy", "x_forwarded_for=truncate", "'truncate' must be truncate:N or append"),
        ("proxy", "x_forwarded_for=truncate:-1", "'truncate:-1' must be truncate:N or append"),
        ("proxy", 'cdn_loop="a\\nb"', "must be printable ASCII, since it is sent as a header"),
        ("proxy", "prometheus_port=ipc://", "a path is missing"),
        ("handler", "ipc_file_mode=999", "'999' is no octal file mode, such as 660"),
        ("handler", "push_in_spec=127.0.0.1:80", "'127.0.0.1:80' must be tcp://ADDRESS:PORT or"),
        ("handler", "push_in_spec=tcp://a b:80", "'a b' is no address"),
        ("handler", "push_in_spec=tcp://a:70000", "port must be less than or equal to 65535"),
        ("handler", "push_in_sub_specs=ipc://a,x", "'x' must be tcp://ADDRESS:PORT or ipc://PATH"),
        ("handler", "push_in_http_addr=a:1", "'a:1' is no IPv6 address"),
        ("handler", "push_in_http_port=x", "must be a whole number"),
        ("handler", "push_in_http_port=70000", "port must be less than or equal to 65535"),
        ("handler", "message_wait=-1", "must be a whole number of at least 0"),
        ("handler", "stats_format=xml", "must be one of tnetstring, json"),
    ],
)
def test_wrong_values_name_file_line_key_and_what_is_allowed(
    conf: Load, tmp_path: Path, section: str, line: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        conf(f"# a comment\n[{section}]\n{line}")
    key = line.partition("=")[0]
    place = f"{tmp_path}/pushpin.conf:3: {key}: "
    assert str(caught.value).startswith(place + reason)


def test_at_least_one_client_port_is_needed(conf: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        conf("[runner]\nhttp_port=", port="")
    assert str(caught.value) == f"{tmp_path}/pushpin.conf: no server ports configured"


@pytest.mark.parametrize("line", ["http_port=1", "https_ports=1", "local_ports=x"])
def test_any_kind_of_client_port_will_do(conf: Load, line: str) -> None:
    runner = conf(f"[runner]\n{line}", port="")[0].runner
    assert len(runner.http_port + runner.https_ports + runner.local_ports) == 1


def test_push_in_sub_spec_is_one_more_of_the_specs(conf: Load) -> None:
    one = "[handler]\npush_in_sub_spec=ipc://a"
    assert conf(one)[0].handler.push_in_sub_specs == ("ipc://a",)
    assert conf(f"{one}\npush_in_sub_specs=ipc://b,ipc://c")[0].handler.push_in_sub_specs == (
        "ipc://b",
        "ipc://c",
        "ipc://a",
    )


def test_the_size_limits_of_publishes_have_older_names_without_http(conf: Load) -> None:
    old = "[handler]\npush_in_max_headers_size=1\npush_in_max_body_size=2"
    config, notices = conf(old)
    handler = config.handler
    assert (handler.push_in_http_max_headers_size, handler.push_in_http_max_body_size) == (1, 2)
    assert notices == []
    handler = conf(f"{old}\npush_in_http_max_body_size=3")[0].handler
    assert (handler.push_in_http_max_headers_size, handler.push_in_http_max_body_size) == (1, 3)


# Notices.


def test_keys_that_mean_nothing_here_are_named_in_one_line(conf: Load, tmp_path: Path) -> None:
    _, notices = conf(
        "[runner]\nservices=condure,pushpin-proxy\nlogdir=log\nmongrel2_bin=mongrel2\n"
        "[proxy]\nupdates_check=off\nzurl_out_specs=ipc://a\nipc_file_mode=777\nstats_spec=ipc://b"
        "\n[handler]\nproxy_inspect_spec=ipc://c"
    )
    assert notices == [
        Notice(
            "info",
            f"{tmp_path}/pushpin.conf: these mean nothing to gripproxy: runner.services, "
            "runner.logdir, runner.mongrel2_bin, proxy.updates_check, proxy.zurl_out_specs, "
            "proxy.ipc_file_mode, proxy.stats_spec, handler.proxy_inspect_spec",
        )
    ]


def test_keys_of_features_to_come_are_named_if_they_ask_for_something(conf: Load) -> None:
    _, notices = conf(
        "[proxy]\nworkers=1\n[handler]\nstats_spec=ipc://a\n"
        "command_spec=\nstats_format=json\nupdate_on_first_subscription=false"
    )
    assert notices == [
        Notice(
            "info",
            "not in this version yet: handler.stats_spec, handler.stats_format",
        )
    ]


def test_every_feature_to_come_is_a_key() -> None:
    assert all(name in readers(section) for section, name in NOT_YET)


def test_unknown_keys_are_warned_of_by_file_line_and_name(conf: Load, tmp_path: Path) -> None:
    _, notices = conf("[runner]\nhtp_port=1\n[handler]\nwhat=\ndebug=true\ncerts_dir=x")
    assert texts(notices) == [
        f"{tmp_path}/pushpin.conf:2: 'htp_port' is unknown in [runner]; did you mean 'http_port'?",
        f"{tmp_path}/pushpin.conf:4: 'what' is unknown in [handler]",
        f"{tmp_path}/pushpin.conf:5: debug is unknown in [handler]; it belongs in [proxy]",
        f"{tmp_path}/pushpin.conf:6: 'certs_dir' is unknown in [handler]",
    ]


def test_unknown_keys_of_an_include_are_warned_of_too(conf: Load, tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text("[proxy]\nx=1")
    _, notices = conf("[global]\ninclude=more.conf")
    assert texts(notices) == [f"{tmp_path}/more.conf:2: 'x' is unknown in [proxy]"]


def test_unknown_sections_are_warned_of_once(conf: Load, tmp_path: Path) -> None:
    _, notices = conf("a=1\nb=2\n[Proxy]\ndebug=true\nsig_key=x\n[zzz]\na=1")
    assert texts(notices) == [
        f"{tmp_path}/pushpin.conf:1: settings before the first [section] are ignored",
        f"{tmp_path}/pushpin.conf:4: there is no section 'Proxy'; did you mean 'proxy'?",
        f"{tmp_path}/pushpin.conf:7: there is no section 'zzz'",
    ]


def test_a_key_that_is_set_twice_counts_the_last_time(conf: Load, tmp_path: Path) -> None:
    config, notices = conf("[proxy]\nsig_iss=a\n[proxy]\nsig_iss=b")
    assert config.proxy.sig_iss == "b"
    assert texts(notices) == [
        f"{tmp_path}/pushpin.conf:4: sig_iss is set again, which replaces line 2"
    ]


@pytest.mark.parametrize(
    ("lines", "caps"),
    [
        ("message_rate=2500\nmessage_hwm=25000", "message_rate=2500, message_hwm=25000"),
        ("message_rate=0\nmessage_hwm=1", "message_hwm=1"),
    ],
)
def test_a_cap_on_deliveries_is_obeyed_with_a_warning(conf: Load, lines: str, caps: str) -> None:
    reason = "deliveries above that are delayed or dropped; without these keys none are"
    assert texts(conf(f"[handler]\n{lines}")[1]) == [f"[handler] {caps}: {reason}"]


@pytest.mark.parametrize(
    ("lines", "inputs"),
    [
        ("push_in_http_port=1", "push_in_http_addr=(unset: every address)"),
        ("push_in_http_port=1\npush_in_http_addr=0.0.0.0", "push_in_http_addr=0.0.0.0"),
        ("push_in_spec=tcp://*:1", "push_in_spec=tcp://*:1"),
        ("push_in_sub_specs=tcp://a:1,tcp://127.0.0.1:2,ipc://x", "push_in_sub_specs=tcp://a:1"),
    ],
)
def test_a_control_input_that_other_machines_reach_is_warned_of(
    conf: Load, lines: str, inputs: str
) -> None:
    reason = "other machines can publish here, and nothing asks who they are"
    assert texts(conf(f"[handler]\n{lines}")[1]) == [f"[handler] {inputs}: {reason}"]


@pytest.mark.parametrize(
    "lines",
    [
        "push_in_http_port=1\npush_in_http_addr=127.0.0.2",
        "push_in_http_port=1\npush_in_http_addr=localhost",
        "push_in_http_port=1\npush_in_http_addr=::1",
        "push_in_http_addr=0.0.0.0",
        "push_in_spec=tcp://[::1]:1",
        "push_in_sub_specs=tcp://a:1\npush_in_sub_connect=true",
    ],
)
def test_a_control_input_that_others_do_not_reach_is_not(conf: Load, lines: str) -> None:
    assert conf(f"[handler]\n{lines}")[1] == []


def test_the_key_of_the_sample_file_is_warned_of(conf: Load) -> None:
    (warning,) = texts(conf("[proxy]\nsig_key=changeme")[1])
    assert warning.startswith("[proxy] sig_key=changeme is the key of the sample file")


# Options.


def test_id_sets_the_prefixes_and_ten_ports_more_each(conf: Load) -> None:
    config, _ = conf(
        "[global]\nipc_prefix=x-\nport_offset=1\n[handler]\npush_in_spec=tcp://127.0.0.1:5560\n"
        "push_in_sub_specs=ipc://{ipc_prefix}a\npush_in_http_port=5561",
        Options(id=3),
    )
    assert config.id == 3
    assert (config.global_.ipc_prefix, config.global_.port_offset) == ("p3-", 30)
    assert config.handler.push_in_spec == "tcp://127.0.0.1:5590"
    assert config.handler.push_in_sub_specs == ("ipc://p3-a",)
    assert config.handler.push_in_http_port == 5591
    assert config.runner.http_port == (TcpAddress("", 7999),)


def test_id_works_without_a_file_too() -> None:
    config, _ = load(None, Options(id=1))
    assert config.handler.push_in_http == TcpAddress("127.0.0.1", 5571)


def test_a_port_replaces_every_configured_one(conf: Load) -> None:
    config, _ = conf(
        "[runner]\nhttps_ports=443\nlocal_ports=x", Options(ports=("8000", "[::1]:8001"))
    )
    assert config.runner.http_port == (TcpAddress("", 8000), TcpAddress("::1", 8001))
    assert (config.runner.https_ports, config.runner.local_ports) == ((), ())


def test_routes_and_logfile_are_handed_on() -> None:
    config, _ = load(None, Options(routes=("* test",), logfile=Path("x.log")))
    assert config.routes == ("* test",)
    assert config.logfile == Path("x.log")


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        (Options(), LogLevels(1, (("proxy", 4),))),
        (Options(log_level="0"), LogLevels(0)),
        (Options(log_level="handler:3,1"), LogLevels(1, (("handler", 3),))),
        (Options(verbose=True), LogLevels(3)),
        (Options(log_level="0", verbose=True), LogLevels(3)),
    ],
)
def test_the_log_level_of_the_command_line_replaces_the_files(
    conf: Load, options: Options, levels: LogLevels
) -> None:
    assert conf("[runner]\nlog_level=1,proxy:4", options)[0].runner.log_level == levels


def test_a_part_without_a_log_level_of_its_own_has_the_default_one() -> None:
    levels = LogLevels(1, (("proxy", 4),))
    assert (levels.of("proxy"), levels.of("handler")) == (4, 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(id=-1), "id must be greater than or equal to 0"),
        (Options(ports=("0",)), "port must be greater than or equal to 1"),
        (Options(ports=("x",)), "'x' must be a port, address:port or [IPv6 address]:port"),
        (Options(log_level="-1"), "log level must be greater than or equal to 0"),
        (Options(log_level="proxy:"), "log level for service proxy must be greater than or equal "
         "to 0"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(options: Options, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, options)
    assert str(caught.value) == reason


# Addresses as text.


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (TcpAddress("", 1), "1"),
        (TcpAddress("127.0.0.1", 1), "127.0.0.1:1"),
        (TcpAddress("::1", 1), "[::1]:1"),
        (UnixAddress(Path("a/b")), "a/b"),
    ],
)
def test_an_address_is_written_as_in_the_file(address: TcpAddress | UnixAddress, text: str) -> None:
    assert str(address) == text


# Our own file, and the shape of Pushpin's.


def test_our_own_file_loads_without_a_notice() -> None:
    config, notices = load(OWN_CONF)
    assert notices == []
    assert config.proxy.routesfile == OWN_CONF.parent / "routes"


def test_our_own_file_is_as_safe_as_no_file() -> None:
    own, none = load(OWN_CONF)[0], load(None)[0]
    assert own.handler == none.handler
    assert own.runner.http_port == none.runner.http_port
    assert own.proxy.set_x_forwarded_protocol == none.proxy.set_x_forwarded_protocol


def test_our_own_file_shows_every_key_that_counts_with_its_default(tmp_path: Path) -> None:
    text = OWN_CONF.read_text()
    shown: set[tuple[str, str]] = set()
    section = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif match := re.fullmatch(r"#?(\w+)=.*", line):
            shown.add((section, match[1]))
    counting = {(name, key) for name in SECTIONS for key in readers(name)} - set(NOT_YET)
    # libdir is deprecated: it only serves to find Pushpin's internal.conf.
    assert shown == counting - {("global", "libdir")}

    path = tmp_path / "all.conf"
    path.write_text(re.sub(r"(?m)^#(\w+=)", r"\1", text))
    everything, notices = load(path)
    assert notices == []
    as_shipped = load(OWN_CONF)[0]
    for name in ("runner", "proxy", "handler", "global_"):
        for entry in fields(getattr(as_shipped, name)):
            if entry.name not in ("routesfile", "certs_dir"):
                shipped = getattr(getattr(as_shipped, name), entry.name)
                assert getattr(getattr(everything, name), entry.name) == shipped, entry.name


def test_a_file_with_the_keys_of_pushpins_sample_starts(conf: Load, tmp_path: Path) -> None:
    config, notices = conf(
        "[global]\ninclude={libdir}/internal.conf\nlibdir=/nowhere\nrundir=run\nipc_prefix=\n"
        "port_offset=0\nstats_connection_ttl=120\nstats_connection_send=true\n"
        "[runner]\nservices=connmgr,proxy,handler\nhttp_port=7676\nlogdir=log\nlog_level=2\n"
        "client_buffer_size=8192\nclient_maxconn=50000\nallow_compression=false\n"
        "mongrel2_bin=mongrel2\nm2sh_bin=m2sh\nzurl_bin=zurl\ncondure_bin=condure\n"
        "[proxy]\nroutesfile=routes\ndebug=false\nauto_cross_origin=false\n"
        "accept_x_forwarded_protocol=false\nset_x_forwarded_protocol=proto-only\n"
        "x_forwarded_for=\nx_forwarded_for_trusted=\norig_headers_need_mark=\n"
        "accept_pushpin_route=true\ncdn_loop=\nlog_from=false\nlog_user_agent=false\n"
        "sig_iss=pushpin\nsig_key=secret\nupstream_key=\nsockjs_url=http://x/sockjs.js\n"
        "updates_check=report\norganization_name=\n"
        "[handler]\npush_in_spec=tcp://127.0.0.1:7678\npush_in_sub_specs=tcp://127.0.0.1:7679\n"
        "push_in_sub_connect=false\npush_in_http_addr=0.0.0.0\npush_in_http_port=7677\n"
        "push_in_http_max_headers_size=8192\npush_in_http_max_body_size=65536\n"
        "stats_spec=ipc://{rundir}/{ipc_prefix}stats\ncommand_spec=tcp://127.0.0.1:7680\n"
        "message_rate=2500\nmessage_hwm=25000\nmessage_wait=5000\nid_cache_ttl=60\n"
        "update_on_first_subscription=true\nconnection_subscription_max=20\n"
        "subscription_linger=60\nstats_subscription_ttl=60\nstats_report_interval=10\n"
        "stats_format=tnetstring\n",
        port="",
    )
    assert config.runner.http_port == (TcpAddress("", 7676),)
    assert config.handler.push_in_http == TcpAddress("0.0.0.0", 7677)
    assert config.handler.stats_spec == "ipc://run/stats"
    assert [notice.text.partition(":")[0] for notice in notices] == [
        f"{tmp_path}/pushpin.conf",
        "not in this version yet",
        "[handler] message_rate=2500, message_hwm=25000",
        "[handler] push_in_http_addr=0.0.0.0",
    ]


ALL_KEYS = sorted({key for name in SECTIONS for key in readers(name)})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(SECTIONS)),
            st.sampled_from(ALL_KEYS),
            st.text(st.characters(codec="utf-8"), max_size=12)
            | st.sampled_from(["1", "true", "tcp://a:1", "a:1", "x" * 300, "../{rundir}", "file:"]),
        ),
        max_size=8,
    )
)
def test_garbage_raises_only_config_errors(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.conf"
    lines = [f"[{section}]\n{key}={value}" for section, key, value in entries]
    path.write_text("\n".join(lines) + PORT, encoding="utf-8", newline="")
    try:
        config, _ = load(path)
    except ConfigError as error:
        assert error.reason
    else:
        assert config.runner.http_port
