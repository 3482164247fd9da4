"""A routes file to a RouteTable, and to complaints about its lines.

A faulty line is skipped and the others count, as in Pushpin. What can only be a slip, such as a
property that does not exist, is complained of but does not cost the line.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gripproxy.errors import ConfigError
from gripproxy.routeline import LineError, Section, sections
from gripproxy.routes import Route, RouteTable, Target

# fmt: off
_CONDITION_PROPS = frozenset((
    "proto", "ssl", "path_beg", "id", "sig_iss", "sig_key", "prefix", "orig_headers", "as_host",
    "path_rem", "replace_beg", "debug", "aco", "jsonp_mode", "jsonp_cb", "jsonp_body",
    "jsonp_defcb", "jsonp_defmethod", "session", "sockjs", "sockjs_as_path", "header", "no_grip",
    "log_level",
))
_TARGET_PROPS = frozenset((
    "ssl", "insecure", "host", "trust_connect_host", "untrusted", "over_http", "one_event", "sub",
    "ipc_file_mode", "client_cert", "client_key",
))
# fmt: on
# Properties of features that this version does not have.
_NOT_YET = ("session",)
_ADDRESS = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):(.*)", re.DOTALL)
_PORT = re.compile("[0-9]{1,5}")
_NUMBER = re.compile("[0-9]{1,9}")
# What becomes part of a request must not be able to end its line.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_VISIBLE = re.compile("[!-~]*")


class Complaint(NamedTuple):
    """What is wrong with a line."""

    source: str
    line: int
    reason: str
    skipped: bool = True  # the line does not count; False: only what the reason names

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


def load(path: Path) -> tuple[RouteTable, list[Complaint]]:
    """The routes in the file at `path`. Raises ConfigError if it cannot be read."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"routes cannot be read: {reason}", path) from error
    return parse(data.decode("utf-8", "surrogateescape"), str(path), path.absolute().parent)


def parse(text: str, source: str, base_dir: Path) -> tuple[RouteTable, list[Complaint]]:
    """The routes in `text`, and what is wrong with its lines.

    `source` is what complaints call it; keys in files are looked for in `base_dir`.
    """
    routes: list[Route] = []
    complaints: list[Complaint] = []
    lines: dict[tuple[str, str | None, bool | None, bytes], int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        try:
            found = sections(line.removesuffix("\r"))
            if not found:
                continue
            route = _route(found, number, base_dir)
            condition = (route.host, route.proto, route.ssl, route.path_beg)
            if route.host and lines.setdefault(condition, number) != number:
                raise LineError(f"duplicate condition: line {lines[condition]} has the same")
        except LineError as error:
            complaints.append(Complaint(source, number, str(error)))
            continue
        routes.append(route)
        complaints += [Complaint(source, number, slip, False) for slip in _slips(found)]
    return RouteTable(routes), complaints


def _route(found: list[Section], number: int, base_dir: Path) -> Route:
    """Raises LineError."""
    condition, *targets = found
    if not targets:
        tab = "; only spaces separate them, not tabs" if "\t" in condition.value else ""
        raise LineError(f"must specify condition and at least one target{tab}")
    proto = _one_of(condition, "proto", ("http", "ws"))
    ssl = _one_of(condition, "ssl", ("yes", "no"))
    jsonp_mode = _one_of(condition, "jsonp_mode", ("basic", "extended")) or "extended"
    path_beg = condition.last("path_beg")
    if path_beg == "":
        raise LineError("path_beg cannot be empty")
    begin = _bytes(path_beg or "")
    replace_beg = _visible(condition, "replace_beg")
    return Route(
        host=_condition_host(condition.value),
        targets=tuple(map(_target, targets)),
        proto=proto,
        ssl=None if ssl is None else ssl == "yes",
        path_beg=begin,
        id=condition.last("id") or None,
        sig_iss=condition.last("sig_iss") or None,
        sig_key=_key(condition.last("sig_key"), base_dir),
        prefix=condition.last("prefix") or "",
        orig_headers=condition.has("orig_headers"),
        as_host=_visible(condition, "as_host") or None,
        path_rem=len(begin) if replace_beg is not None else _number(condition, "path_rem") or 0,
        replace_beg=None if replace_beg is None else _bytes(replace_beg),
        debug=condition.has("debug"),
        cross_origin=condition.has("aco"),
        jsonp_mode=jsonp_mode,
        jsonp_cb=condition.last("jsonp_cb") or "callback",
        jsonp_body=condition.last("jsonp_body") or None,
        jsonp_defcb=condition.last("jsonp_defcb") or None,
        jsonp_defmethod=condition.last("jsonp_defmethod")
        or ("POST" if jsonp_mode == "basic" else "GET"),
        session=condition.has("session"),
        sockjs=_bytes(condition.last("sockjs") or "") or None,
        sockjs_as_path=_bytes(_visible(condition, "sockjs_as_path") or "") or None,
        headers=tuple(map(_header, condition.all("header"))),
        no_grip=condition.has("no_grip"),
        log_level=_number(condition, "log_level"),
        line=number,
    )


def _target(section: Section) -> Target:
    """Raises LineError."""
    host, port, test = "", 0, section.value == "test"
    if not test:
        host, port = _address(section.value)
    client_cert = _readable(section.last("client_cert"))
    client_key = _readable(section.last("client_key"))
    if client_key is not None and client_cert is None:
        raise LineError("client_key needs a client_cert")
    return Target(
        host=host,
        port=port,
        test=test,
        ssl=section.has("ssl"),
        insecure=section.has("insecure"),
        host_header=_visible(section, "host") or None,
        trust_connect_host=section.has("trust_connect_host"),
        untrusted=section.has("untrusted"),
        over_http=section.has("over_http"),
        one_event=section.has("one_event"),
        subs=tuple(filter(None, section.all("sub"))),
        client_cert=client_cert,
        client_key=client_key,
    )


def _address(value: str) -> tuple[str, int]:
    if value.startswith(("zhttp/", "zhttpreq/")):
        raise LineError(
            f"target {value!r}: zhttp is a transport between Pushpin and its own kind of workers, "
            "which gripproxy does not speak; write the backend's HTTP address, host:port"
        )
    if "://" in value:
        raise LineError(f"target {value!r} must be host:port, for TLS host:port,ssl")
    match = _ADDRESS.fullmatch(value)
    if match is None:
        raise LineError(f"target {value!r} must be host:port, [IPv6 address]:port or test")
    host, port = match[1] or match[2], match[3]
    if not host:
        raise LineError(f"target {value!r} has no host")
    if _PORT.fullmatch(port) is None or not 1 <= int(port) <= 65535:
        raise LineError(f"target {value!r} has no port from 1 to 65535")
    return host, int(port)


def _condition_host(value: str) -> str:
    return value[1:-1] if value.startswith("[") and value.endswith("]") else value


def _one_of(section: Section, name: str, allowed: tuple[str, str]) -> str | None:
    value = section.last(name)
    if value is not None and value not in allowed:
        raise LineError(f"{name} must be set to {allowed[0]!r} or {allowed[1]!r}")
    return value


def _header(prop: str) -> tuple[bytes, bytes]:
    name, colon, value = prop.partition(":")
    if not colon or _HEADER_NAME.fullmatch(name) is None:
        raise LineError("header must use format 'name:value'")
    if _CONTROL.search(value) is not None:
        raise LineError("header must not contain control characters")
    return _bytes(name), _bytes(value.lstrip(" "))


def _visible(section: Section, name: str) -> str | None:
    value = section.last(name)
    if value is not None and _VISIBLE.fullmatch(value) is None:
        raise LineError(f"{name} must be ASCII without spaces")
    return value


def _number(section: Section, name: str) -> int | None:
    """None for what is no number, which `_slips` complains of."""
    value = section.last(name)
    return int(value) if value is not None and _NUMBER.fullmatch(value) else None


def _key(value: str | None, base_dir: Path) -> str | None:
    if not value or not value.startswith("file:"):
        return value or None
    return f"file:{base_dir / value.removeprefix('file:')}"


def _readable(name: str | None) -> Path | None:
    """Pushpin: relative to the working directory. Raises LineError if it cannot be read."""
    if not name:
        return None
    path = Path(os.path.abspath(name))
    try:
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LineError(f"cannot read {name!r}: {reason}") from error
    return path


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _slips(found: list[Section]) -> Iterable[str]:
    """What a line says in vain."""
    condition, *targets = found
    host = _condition_host(condition.value)
    if not _can_match(host):
        yield f"host {host!r} never matches: write a whole name, in lower case and without a port"
    yield from _unknown_props(condition, _CONDITION_PROPS, "a condition", _TARGET_PROPS)
    for target in targets:
        yield from _unknown_props(target, _TARGET_PROPS, "a target", _CONDITION_PROPS)
    for name in ("path_rem", "log_level"):
        if condition.has(name) and _number(condition, name) is None:
            yield f"{name}={condition.last(name)!r} is ignored: it must be a whole number"

    for name in _NOT_YET:
        if condition.has(name):
            yield f"{name} is not in this version yet"


def _can_match(host: str) -> bool:
    """Whether a request's host, in lower case and without its port, can be `host`."""
    if host in ("", "*"):
        return True
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
    return host == host.lower() and "*" not in host


def _unknown_props(
    section: Section, known: frozenset[str], kind: str, elsewhere: frozenset[str]
) -> Iterable[str]:
    for name in dict.fromkeys(name for name, _ in section.props):
        if name in known:
            continue
        close = difflib.get_close_matches(name, sorted(known), n=1)
        if name in elsewhere:
            hint = "; it belongs to " + ("a target" if kind == "a condition" else "a condition")
        else:
            hint = f"; did you mean {close[0]!r}?" if close else ""
        yield f"property {name!r} of {kind} is unknown and ignored{hint}"
