"""The keys of each section: one attribute for each, with its type, its reader and its default.

A key's type is `Annotated` with what reads its value.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from gripproxy import values
from gripproxy.ini import Value
from gripproxy.values import ForwardedFor, LogLevels, TcpAddress, UnixAddress

Text = Annotated[str, values.text]
Flag = Annotated[bool, values.boolean]
Count = Annotated[int, values.integer(1)]
Natural = Annotated[int, values.integer(0)]
Limit = Annotated[int | None, values.limit]  # None: no limit
Seconds = Annotated[float, values.seconds]
FilePath = Annotated[Path | None, values.path_or_none]
FileMode = Annotated[int | None, values.file_mode]
Listeners = Annotated[tuple[TcpAddress, ...], values.listen_addresses]
LocalListeners = Annotated[tuple[UnixAddress, ...], values.local_addresses]
MetricsListener = Annotated[TcpAddress | UnixAddress | None, values.metrics_address]
Spec = Annotated[str, values.zmq_spec]
Specs = Annotated[tuple[str, ...], values.zmq_specs]
Levels = Annotated[LogLevels, values.log_levels]
Forwarded = Annotated[ForwardedFor, values.forwarded_for]

_INFO = LogLevels()
_UNCHANGED = ForwardedFor()


@dataclass(frozen=True, slots=True)
class Global:
    """Section [global]."""

    include: Text = ""
    libdir: Text = "/usr/lib/pushpin"
    rundir: Text = "run"  # relative to the working directory
    ipc_prefix: Text = "pushpin-"
    port_offset: Annotated[int, values.integer(-65535, 65535)] = 0
    stats_connection_ttl: Natural = 120  # s
    stats_connection_send: Flag = True


@dataclass(frozen=True, slots=True)
class Runner:
    """Section [runner]: the client side."""

    http_port: Listeners = ()
    https_ports: Listeners = ()
    local_ports: LocalListeners = ()
    log_level: Levels = _INFO
    client_buffer_size: Count = 8192  # bytes of a request's line and headers
    client_maxconn: Count = 50_000
    allow_compression: Flag = False
    # Not in Pushpin:
    client_queue_bytes: Count = 8_388_608  # for one connection, what the kernel has not taken
    client_queue_total_bytes: Count = 268_435_456  # for all connections together
    client_queue_full: Annotated[str, values.choice("close", "drop")] = "close"
    client_pipeline_bytes: Count = 65_536  # sent ahead of the answer
    client_idle_timeout: Seconds = 60.0
    client_inactivity_timeout: Seconds = 1800.0
    ws_queue_bytes: Count = 200_000  # from a client, that wait for a WebSocket-over-HTTP backend
    ws_inflate_max: Count = 16_777_216  # bytes of a client's compressed message, once inflated
    sockjs_sessions_max: Count = 50_000
    ws_close_timeout: Seconds = 30.0  # for the other end to answer a close frame
    certs_dir: Path = Path("runner/certs")  # beside the configuration file; no key


@dataclass(frozen=True, slots=True)
class Proxy:
    """Section [proxy]: routing and the backend side."""

    routesfile: FilePath = None  # absolute
    workers: Count = 1
    debug: Flag = False
    auto_cross_origin: Flag = False
    accept_x_forwarded_protocol: Flag = False
    set_x_forwarded_protocol: Annotated[str, values.forwarded_proto] = "none"
    x_forwarded_for: Forwarded = _UNCHANGED
    x_forwarded_for_trusted: Forwarded = _UNCHANGED
    orig_headers_need_mark: Annotated[tuple[str, ...], values.header_names] = ()  # lower case
    accept_pushpin_route: Flag = False
    cdn_loop: Annotated[str, values.header_text] = ""
    log_from: Flag = False
    log_user_agent: Flag = False
    sig_iss: Text = "pushpin"
    sig_key: Text = ""  # a path after `file:` is absolute
    upstream_key: Text = ""  # the same
    sockjs_url: Text = ""
    max_open_requests: Limit = None
    prometheus_port: MetricsListener = None
    prometheus_prefix: Text = ""
    # Not in Pushpin:
    backend_connect_timeout: Seconds = 10.0  # for each address
    backend_response_timeout: Seconds = 1800.0  # until the response's headers
    backend_inactivity_timeout: Seconds = 1800.0  # without a byte of its body
    backend_maxconn: Count = 1000  # connections to one target
    backend_queue_max: Count = 10_000  # requests that wait for one target
    backend_queue_timeout: Seconds = 10.0
    backend_idle_timeout: Seconds = 55.0  # that a connection is kept for reuse
    backend_idle_max: Count = 256  # connections kept for one target
    dns_ttl: Seconds = 30.0


@dataclass(frozen=True, slots=True)
class Handler:
    """Section [handler]: publishing."""

    ipc_file_mode: FileMode = None
    push_in_spec: Spec = ""
    push_in_sub_specs: Specs = ()
    push_in_sub_connect: Flag = False
    push_in_http_addr: Annotated[str, values.host_or_any] = ""
    push_in_http_port: Limit = None  # with port_offset
    push_in_http_max_headers_size: Count = 10_000  # bytes
    push_in_http_max_body_size: Count = 1_000_000  # bytes
    stats_spec: Spec = ""
    command_spec: Spec = ""
    state_spec: Spec = ""
    share_all: Flag = False
    message_rate: Limit = None  # deliveries per second
    message_hwm: Limit = None  # deliveries that wait for their turn
    message_block_size: Limit = None  # bytes
    message_wait: Natural = 5000  # ms
    id_cache_ttl: Natural = 60  # s; Pushpin's own default is 0
    update_on_first_subscription: Flag = True
    connection_subscription_max: Natural = 20
    subscription_linger: Natural = 60  # s
    stats_subscription_ttl: Natural = 60  # s
    stats_report_interval: Limit = 10  # s; None: no reports
    stats_format: Annotated[str, values.choice("tnetstring", "json")] = "tnetstring"
    prometheus_port: MetricsListener = None
    prometheus_prefix: Text = ""
    # Not in Pushpin:
    publish_queue_max: Count = 100_000  # items that wait for fan-out
    publish_queue_bytes: Count = 67_108_864  # of content in them
    push_in_http_maxconn: Count = 128

    @property
    def push_in_http(self) -> TcpAddress | None:
        """Where publishes by HTTP are taken, if they are."""
        if self.push_in_http_port is None:
            return None
        return TcpAddress(self.push_in_http_addr, self.push_in_http_port)


Section = Global | Runner | Proxy | Handler
SECTIONS: dict[str, type[Section]] = {
    "global": Global,
    "runner": Runner,
    "proxy": Proxy,
    "handler": Handler,
}


@cache
def readers(section: str) -> dict[str, Callable[[Value], Any]]:
    """The keys of a section, each with what reads its value."""
    hints = get_type_hints(SECTIONS[section], include_extras=True)
    return {
        name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")
    }
