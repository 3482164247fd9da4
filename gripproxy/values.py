"""The types of configuration values, and what reads them.

A reader turns text into a value, or raises ValueError that says what is allowed.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

from gripproxy.ini import Value

_INT_MAX = 2**31 - 1
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_OCTAL = re.compile(r"[0-7]{1,4}")
_HOST_NAME = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z_.-]{0,252})")
_HOST_PORT = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+):([0-9]{1,18})")
_TCP_SPEC = re.compile(r"tcp://(\[[^\[\]]*\]|[^:\[\]/]+):([0-9]{1,18})")
_HEADER_TEXT = re.compile(r"[ -~]*")

# Pushpin's names for its processes, old and new. gripproxy's parts go by the new ones.
_SERVICES = {
    "connmgr": "connmgr",
    "condure": "connmgr",
    "proxy": "proxy",
    "pushpin-proxy": "proxy",
    "handler": "handler",
    "pushpin-handler": "handler",
    "runner": "runner",
}
_SERVICE_NAMES = "connmgr, proxy, handler and runner"
_FORMER_SERVICES = frozenset(("mongrel2", "m2adapter", "zurl"))


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to listen. A `host` of "" means every IPv4 address, 0.0.0.0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.host:
            return str(self.port)
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket; a relative `path` is relative to the working directory."""

    path: Path
    mode: int | None = None
    user: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        return str(self.path)


class ForwardedFor(NamedTuple):
    """What becomes of X-Forwarded-For."""

    keep: int | None = None  # how many of its last addresses stay; None: all
    append: bool = False  # whether the client's address is added


class LogLevels(NamedTuple):
    """0 errors, 1 warnings, 2 information, 3 debugging, 4 traces."""

    default: int = 2
    services: tuple[tuple[str, int], ...] = ()  # those that differ: connmgr, proxy, handler, runner

    def of(self, service: str) -> int:
        """The level of one part."""
        return dict(self.services).get(service, self.default)


def text(value: Value) -> str:
    return value.text


def header_text(value: Value) -> str:
    if _HEADER_TEXT.fullmatch(value.text) is None:
        raise ValueError("must be printable ASCII, since it is sent as a header")
    return value.text


def boolean(value: Value) -> bool:
    # Pushpin 1.36 reads `no` and `off` as true and Pushpin 2.0 as false, so those are refused.
    word = value.text.lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", ""):
        return False
    raise ValueError("must be true or false")


def integer(low: int, high: int = _INT_MAX) -> Callable[[Value], int]:
    """A whole number from `low` to `high`; an empty value is 0, as in Pushpin."""

    def parse(value: Value) -> int:
        allowed = f" of at least {low}" if low > -_INT_MAX else ""
        if high != _INT_MAX:
            allowed = f" from {low} to {high}"
        digits = value.text or "0"
        if _INTEGER.fullmatch(digits) is None or not low <= int(digits) <= high:
            raise ValueError(f"must be a whole number{allowed}")
        return int(digits)

    return parse


def limit(value: Value) -> int | None:
    """A whole number; None, no limit, for 0 or less or an empty value."""
    number = integer(-_INT_MAX - 1)(value)
    return number if number > 0 else None


def seconds(value: Value) -> float:
    if _SECONDS.fullmatch(value.text) is None or float(value.text) <= 0:
        raise ValueError("must be a number of seconds above 0")
    return float(value.text)


def file_mode(value: Value) -> int | None:
    if value.text in ("", "-1"):
        return None
    return _mode(value.text)


def choice(default: str, *others: str) -> Callable[[Value], str]:
    """One of the words; an empty value is the default."""

    def parse(value: Value) -> str:
        word = value.text.lower() or default
        if word != default and word not in others:
            raise ValueError(f"must be one of {', '.join((default, *others))}")
        return word

    return parse


def forwarded_proto(value: Value) -> str:
    """`none`, `proto-only` or `true`."""
    word = choice("none", "false", "proto-only", "true")(value)
    return "none" if word == "false" else word


def path_or_none(value: Value) -> Path | None:
    return Path(value.text) if value.text else None


def items(value: Value) -> tuple[str, ...]:
    """The list's items. Commas separate within quotes too: Pushpin's samples quote whole lists."""
    parts = (part.strip() for item in value.items for part in item.split(","))
    return tuple(part for part in parts if part)


def header_names(value: Value) -> tuple[str, ...]:
    return tuple(name.lower() for name in items(value))


def listen_addresses(value: Value) -> tuple[TcpAddress, ...]:
    return tuple(map(listen_address, items(value)))


def listen_address(spec: str) -> TcpAddress:
    """`port`, `address:port` or `[address]:port`."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", spec) is not None:
        return TcpAddress("", port_number(spec))
    match = _HOST_PORT.fullmatch(spec)
    if match is None:
        raise ValueError(f"{spec!r} must be a port, address:port or [IPv6 address]:port")
    return TcpAddress(_host(match[1]), port_number(match[2]))


def port_number(digits: str) -> int:
    number = int(digits)
    if number < 1:
        raise ValueError("port must be greater than or equal to 1")
    if number > 65535:
        raise ValueError("port must be less than or equal to 65535")
    return number


def host_or_any(value: Value) -> str:
    return _host(value.text) if value.text else ""


def local_addresses(value: Value) -> tuple[UnixAddress, ...]:
    return tuple(map(_local_address, items(value)))


def metrics_address(value: Value) -> TcpAddress | UnixAddress | None:
    """`port`, `address:port` or `ipc://path`."""
    if not value.text:
        return None
    if value.text.startswith("ipc://"):
        return UnixAddress(_path(value.text.removeprefix("ipc://")))
    return listen_address(value.text)


def zmq_spec(value: Value) -> str:
    return _zmq_spec(value.text) if value.text else ""


def zmq_specs(value: Value) -> tuple[str, ...]:
    return tuple(map(_zmq_spec, items(value)))


def forwarded_for(value: Value) -> ForwardedFor:
    keep: int | None = None
    append = False
    for item in items(value):
        name, separator, count = item.partition(":")
        if item == "append":
            append = True
        elif name == "truncate" and separator and re.fullmatch("[0-9]{1,9}", count):
            keep = int(count)
        else:
            raise ValueError(f"{item!r} must be truncate:N or append")
    return ForwardedFor(keep, append)


def log_levels(value: Value) -> LogLevels:
    """`N` and `service:N`, in a list."""
    default = LogLevels().default
    services: dict[str, int] = {}
    for item in items(value):
        service, separator, digits = item.rpartition(":")
        if re.fullmatch("[0-9]{1,9}", digits.strip()) is None:
            whose = f" for service {service}" if separator else ""
            raise ValueError(f"log level{whose} must be greater than or equal to 0")
        if not separator:
            default = int(digits)
        elif service in _SERVICES:
            services[_SERVICES[service]] = int(digits)
        elif service not in _FORMER_SERVICES:
            raise ValueError(f"no service is called {service!r}; {_SERVICE_NAMES} are")
    return LogLevels(default, tuple(services.items()))


def absolute_key(key: str, base_dir: Path) -> str:
    """A signing key's text; `file:` gets a path that no longer depends on where it was written."""
    if not key.startswith("file:"):
        return key
    return f"file:{base_dir / key.removeprefix('file:')}"


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, stands for this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def spec_is_loopback(spec: str) -> bool:
    """Whether only this machine can reach a ZeroMQ `spec`."""
    match = _TCP_SPEC.fullmatch(spec)
    return match is None or is_loopback(match[1].strip("[]"))


def _host(name: str) -> str:
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
        if ":" not in name:
            raise ValueError(f"{name!r} is no IPv6 address")
    if ":" in name:
        try:
            ipaddress.IPv6Address(name)
        except ValueError:
            raise ValueError(f"{name!r} is no IPv6 address") from None
    elif _HOST_NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no address")
    return name


def _local_address(spec: str) -> UnixAddress:
    path, _, query = spec.removeprefix("unix:").partition("?")
    mode: int | None = None
    owner: dict[str, str] = {}
    for name, setting in parse_qsl(query, keep_blank_values=True):
        if name == "mode":
            mode = _mode(setting)
        elif name in ("user", "group") and setting:
            owner[name] = setting
        else:
            raise ValueError(f"{name}={setting} is none of mode=OCTAL, user=NAME and group=NAME")
    return UnixAddress(_path(path), mode, owner.get("user"), owner.get("group"))


def _path(name: str) -> Path:
    if not name:
        raise ValueError("a path is missing")
    return Path(name)


def _mode(digits: str) -> int:
    if _OCTAL.fullmatch(digits) is None:
        raise ValueError(f"{digits!r} is no octal file mode, such as 660")
    return int(digits, 8)


def _zmq_spec(spec: str) -> str:
    if spec.startswith("ipc://") and len(spec) > len("ipc://"):
        return spec
    match = _TCP_SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"{spec!r} must be tcp://ADDRESS:PORT or ipc://PATH")
    if match[1] != "*":
        _host(match[1])
    port_number(match[2])
    return spec
