"""What `gripproxy check` prints: how the configuration and the routes were understood."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from gripproxy.config import Config, ForwardedFor, LogLevels, TcpAddress, UnixAddress
from gripproxy.errors import KeyFormatError
from gripproxy.grip import signature
from gripproxy.notices import NOT_YET
from gripproxy.routes import Route, RouteTable, Target

# Shown in a way of their own, or not at all.
_NOT_LISTED = frozenset(
    (
        "http_port",
        "https_ports",
        "local_ports",
        "certs_dir",
        "include",
        "libdir",
        "routesfile",
        "push_in_spec",
        "push_in_sub_specs",
        "push_in_sub_connect",
        "push_in_http_addr",
        "push_in_http_port",
        "sig_iss",
        "sig_key",
        "upstream_key",
    )
)


def bad_keys(config: Config, table: RouteTable) -> Iterator[str]:
    """What is wrong with the keys of the configuration and of the routes."""
    proxy = config.proxy
    keys = {("sig_key", proxy.sig_key): None, ("upstream_key", proxy.upstream_key): None}
    keys |= {(f"route {route.key}: sig_key", route.sig_key or ""): None for route in table.routes}
    for name, text in keys:
        try:
            key = signature.load_key(text, config.base_dir)
        except KeyFormatError as error:
            yield f"{name}: {error}"
        else:
            if key is not None and "sig_key" in name and not key.can_sign:
                yield f"{name}: a public key cannot sign"


def missing_certificates(config: Config) -> Iterator[str]:
    """Whether TLS ports are without any certificate."""
    runner = config.runner
    if runner.https_ports and not any(runner.certs_dir.glob("*.crt")):
        yield f"https_ports: there is no certificate (NAME.crt and NAME.key) in {runner.certs_dir}"


def describe(config: Config, table: RouteTable) -> str:
    """The whole in plain lines, without any key's text."""
    lines = [
        f"configuration: {config.path or 'none, built-in settings'}",
        *_section("clients", _clients(config)),
        *_section("publishing", _publishing(config)),
        *_section("signing", _signing(config)),
        *_section("settings that differ from the defaults", _settings(config)),
        f"routes: {len(table.routes)}, from {_routes_source(config)}",
        *(f"  {line}" for route in table.routes for line in _route(route)),
    ]
    # A routes file may hold bytes that are no UTF-8, which a terminal does not take.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield f"{title}:"
    found = False
    for line in lines:
        found = True
        yield f"  {line}"
    if not found:
        yield "  none"


def _clients(config: Config) -> Iterator[str]:
    runner = config.runner
    for address in runner.http_port:
        yield f"http on {_address(address)}"
    for address in runner.https_ports:
        yield f"https on {_address(address)}, certificates in {runner.certs_dir}"
    for local in runner.local_ports:
        rights = [f"mode {local.mode:o}"] if local.mode is not None else []
        rights += [f"{kind} {name}" for kind, name in _owner(local) if name is not None]
        yield f"http on the Unix socket {local.path}" + "".join(f", {right}" for right in rights)


def _owner(local: UnixAddress) -> tuple[tuple[str, str | None], ...]:
    return ("user", local.user), ("group", local.group)


def _publishing(config: Config) -> Iterator[str]:
    handler = config.handler
    if handler.push_in_http is not None:
        yield f"http on {_address(handler.push_in_http)}"
    if handler.push_in_spec:
        yield f"ZeroMQ PULL, bound to {handler.push_in_spec}"
    verb = "connected" if handler.push_in_sub_connect else "bound"
    for spec in handler.push_in_sub_specs:
        yield f"ZeroMQ SUB, {verb} to {spec}"


def _signing(config: Config) -> Iterator[str]:
    proxy = config.proxy
    if proxy.sig_key and proxy.sig_iss:
        yield f"requests to backends are signed as {proxy.sig_iss!r}"
    else:
        yield "requests to backends are not signed"
    if proxy.upstream_key:
        yield "requests that are signed with upstream_key are trusted"


def _settings(config: Config) -> Iterator[str]:
    sections = (
        ("global", config.global_),
        ("runner", config.runner),
        ("proxy", config.proxy),
        ("handler", config.handler),
    )
    for title, section in sections:
        for entry in fields(section):
            if entry.name in _NOT_LISTED or (title, entry.name) in NOT_YET:
                continue
            value = getattr(section, entry.name)
            if value != entry.default:
                default = _text(entry.default)
                yield f"[{title}] {entry.name} = {_text(value)} (default {default})"


def _text(value: Any) -> str:
    """A value as it would be written in the file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, ForwardedFor):
        keep = "" if value.keep is None else f"truncate:{value.keep}"
        return ",".join(filter(None, (keep, "append" if value.append else ""))) or "none"
    if isinstance(value, LogLevels):
        return ",".join([str(value.default), *(f"{name}:{n}" for name, n in value.services)])
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "none"


def _address(address: TcpAddress) -> str:
    return str(address) if address.host else f"port {address.port} of every address"


def _routes_source(config: Config) -> str:
    if config.routes:
        return "the command line"
    return str(config.proxy.routesfile or "nowhere: every request gets 502")


def _route(route: Route) -> Iterator[str]:
    yield f"line {route.line}: {_condition(route)}{_effects(route)}"
    for target in route.targets:
        yield f"  to {_target(target)}"


def _condition(route: Route) -> str:
    host = {"*": "any host", "": "no host, only by id"}.get(route.host, route.host)
    parts = [host]
    if route.path_beg:
        parts.append(f"path from {_bytes(route.path_beg)}")
    if route.proto is not None:
        parts.append("WebSocket only" if route.proto == "ws" else "HTTP only")
    if route.ssl is not None:
        parts.append("TLS only" if route.ssl else "without TLS only")
    return ", ".join(parts)


def _effects(route: Route) -> str:
    """What the route asks for, apart from its condition."""
    effects = [f"id {route.id}"] if route.id is not None else []
    if route.sig_iss is not None:
        effects.append(f"signed as {route.sig_iss!r}")
    if route.sig_key is not None:
        effects.append("a key of its own")
    if route.prefix:
        effects.append(f"channel prefix {route.prefix!r}")
    if route.as_host is not None:
        effects.append(f"as host {route.as_host}")
    if route.replace_beg is not None:
        effects.append(f"path begins with {_bytes(route.replace_beg) or '/'} instead")
    elif route.path_rem:
        effects.append(f"path without its first {route.path_rem} bytes")
    for name, value in route.headers:
        effects.append(f"header {_bytes(name)} {'set' if value else 'removed'}")
    flags = (
        ("orig_headers", route.orig_headers),
        ("debug", route.debug),
        ("aco", route.cross_origin),
        ("session", route.session),
        ("sockjs", route.sockjs is not None),
        ("no_grip", route.no_grip),
    )
    effects += [name for name, on in flags if on]
    return f" ({'; '.join(effects)})" if effects else ""


def _target(target: Target) -> str:
    flags = (
        ("TLS", target.ssl),
        ("any certificate", target.insecure),
        ("certificate for the connect host", target.trust_connect_host),
        ("public addresses only", target.untrusted),
        ("WebSocket over HTTP", target.over_http),
        ("one event for each request", target.one_event),
        ("client certificate", target.client_cert is not None),
    )
    notes = [name for name, on in flags if on]
    if target.host_header is not None:
        notes.insert(0, f"as host {target.host_header}")
    notes += [f"channel {name}" for name in target.subs]
    return target.name + "".join(f", {note}" for note in notes)


def _bytes(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
