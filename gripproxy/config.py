"""pushpin.conf or gripproxy.conf to frozen values: a dataclass per section, an attribute per key.

Loading reads files and nothing else: it opens no socket, logs nothing and never exits. What the
operator should hear of is returned as notices. A value comes from the main file, even if it is
empty there, else from the included file, else from the default.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gripproxy import ini, values
from gripproxy.errors import ConfigError
from gripproxy.ini import Entry, Value
from gripproxy.notices import ALIASES, Notice, judge_keys, judge_values
from gripproxy.settings import SECTIONS, Global, Handler, Proxy, Runner, readers
from gripproxy.values import ForwardedFor, LogLevels, TcpAddress, UnixAddress

__all__ = [
    "Config",
    "ForwardedFor",
    "Global",
    "Handler",
    "LogLevels",
    "Notice",
    "Options",
    "Proxy",
    "Runner",
    "TcpAddress",
    "UnixAddress",
    "candidates",
    "find_config",
    "load",
]

# The settings of a start without a file: what Pushpin's own sample sets, on this machine only.
_WITHOUT_FILE = """
[runner]
http_port=7999
[proxy]
set_x_forwarded_protocol=proto-only
[handler]
push_in_spec=tcp://127.0.0.1:5560
push_in_sub_specs=tcp://127.0.0.1:5562
push_in_http_addr=127.0.0.1
push_in_http_port=5561
"""

# Where packages put their files; each with the name of its own.
_SYSTEM_FILES = (Path("/etc/gripproxy/gripproxy.conf"), Path("/etc/gripproxy/pushpin.conf"))

_TCP_PORT = re.compile(r"(tcp://(?:\[[^\[\]]*\]|[^:\[\]/,]+):)([0-9]{1,9})")

T = TypeVar("T")
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line sets in place of the file."""

    id: int | None = None
    ports: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    log_level: str | None = None
    verbose: bool = False
    logfile: Path | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that was set, with the options applied."""

    path: Path | None  # None: no file
    base_dir: Path  # what relative paths in the file are relative to
    global_: Global
    runner: Runner
    proxy: Proxy
    handler: Handler
    routes: tuple[str, ...] = ()  # given on the command line; none: proxy.routesfile counts
    id: int | None = None
    logfile: Path | None = None


def candidates(cwd: Path) -> list[Path]:
    """Where a configuration file is looked for, in this order, which is Pushpin's."""
    directories = (cwd / "config", cwd, cwd / "examples" / "config")
    names = ("gripproxy.conf", "pushpin.conf")
    return [directory / name for directory in directories for name in names] + list(_SYSTEM_FILES)


def find_config(cwd: Path) -> Path | None:
    """The first configuration file that exists."""
    return next((path for path in candidates(cwd) if path.is_file()), None)


def load(path: Path | None, options: Options = Options()) -> tuple[Config, list[Notice]]:
    """The configuration in the file at `path`, or the built-in one, with `options` applied.

    Raises ConfigError for an unreadable file, a line that is not INI, a wrong value or option.
    """
    if options.id is not None and options.id < 0:
        raise ConfigError("id must be greater than or equal to 0")
    main = ini.parse(_WITHOUT_FILE, None) if path is None else ini.read(path)
    base_dir = Path.cwd() if path is None else path.absolute().parent
    substitution = _Substitution.of(main, options)
    included = _include(main, base_dir, substitution)
    notices = [*judge_keys(main), *judge_keys(included)]

    # Later entries replace earlier ones: the last of a file, and the main file's.
    entries = {(entry.section, entry.key): entry for entry in (*included, *main)}
    _apply_aliases(entries)
    read = {name: _read_section(name, entries, substitution) for name in SECTIONS}
    global_ = replace(
        Global(**read["global"]),
        libdir=substitution.libdir,
        rundir=substitution.rundir,
        ipc_prefix=substitution.ipc_prefix,
        port_offset=substitution.port_offset,
    )
    runner = replace(Runner(**read["runner"]), certs_dir=base_dir / "runner" / "certs")
    proxy, handler = Proxy(**read["proxy"]), Handler(**read["handler"])
    proxy = replace(
        proxy,
        routesfile=None if proxy.routesfile is None else base_dir / proxy.routesfile,
        sig_key=values.absolute_key(proxy.sig_key, base_dir),
        upstream_key=values.absolute_key(proxy.upstream_key, base_dir),
    )
    if handler.push_in_http_port is not None:
        handler = _offset_http_port(handler, substitution, entries)
    runner = _override(runner, options)
    if not (runner.http_port or runner.https_ports or runner.local_ports):
        warnings = [notice.text for notice in notices if notice.level == "warning"]
        raise ConfigError("; ".join(["no server ports configured", *warnings]), path)

    config = Config(
        path,
        base_dir,
        global_,
        runner,
        proxy,
        handler,
        options.routes,
        options.id,
        options.logfile,
    )
    notices += judge_values(proxy, handler, read)
    return config, notices


class _Substitution(NamedTuple):
    """What values may refer to. None of it is read from the included file, as in Pushpin."""

    libdir: str
    rundir: str
    ipc_prefix: str
    port_offset: int

    @classmethod
    def of(cls, main: list[Entry], options: Options) -> "_Substitution":
        entries = {(entry.section, entry.key): entry for entry in main}
        rundir = entries.get(("global", "rundir"), entries.get(("runner", "rundir")))
        if options.id is None:
            prefix = entries.get(("global", "ipc_prefix"))
            offset = entries.get(("global", "port_offset"))
            ipc_prefix = Global().ipc_prefix if prefix is None else prefix.value.text
            port_offset = 0 if offset is None else _read(offset, readers("global")["port_offset"])
        else:
            ipc_prefix, port_offset = f"p{options.id}-", options.id * 10
        libdir = entries.get(("global", "libdir"))
        return cls(
            (libdir.value.text if libdir is not None else "") or Global().libdir,
            (rundir.value.text if rundir is not None else "") or Global().rundir,
            ipc_prefix,
            port_offset,
        )

    def text(self, text: str) -> str:
        """Raises ValueError when a port leaves the range."""
        for name in ("libdir", "rundir", "ipc_prefix"):
            text = text.replace("{" + name + "}", getattr(self, name))
        return _TCP_PORT.sub(self._move, text) if self.port_offset else text

    def value(self, value: Value) -> Value:
        """The same, for the text and each item."""
        return Value(self.text(value.text), tuple(map(self.text, value.items)))

    def port(self, port: int) -> int:
        """Raises ValueError as `text` does."""
        moved = port + self.port_offset
        if not 1 <= moved <= 65535:
            raise ValueError(f"port {port} moved by {self.port_offset} is not from 1 to 65535")
        return moved

    def _move(self, match: re.Match[str]) -> str:
        return f"{match[1]}{self.port(int(match[2]))}"


def _include(main: list[Entry], base_dir: Path, substitution: _Substitution) -> list[Entry]:
    entry = next((e for e in reversed(main) if (e.section, e.key) == ("global", "include")), None)
    if entry is None or not entry.value.text:
        return []
    name = entry.value.text
    if name == "internal.conf":
        name = "{libdir}/internal.conf"
    path = base_dir / substitution.text(name)
    try:
        return ini.read(path)
    except ConfigError as error:
        if error.line is not None:
            raise
        # It names the sockets between Pushpin's processes, so it may as well be missing.
        if path.name == "internal.conf":
            return []
        raise ConfigError(f"include: {error}", entry.source, entry.line) from error


def _apply_aliases(entries: dict[_Key, Entry]) -> None:
    for alias, key in ALIASES.items():
        entry = entries.get(alias)
        if entry is None:
            continue
        present = entries.get(key)
        if present is None:
            entries[key] = entry
        elif key[1] == "push_in_sub_specs":  # both count
            both = present.value.items + entry.value.items
            entries[key] = present._replace(value=Value(",".join(both), both))


def _read_section(
    section: str, entries: dict[_Key, Entry], substitution: _Substitution
) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, reader in readers(section).items():
        entry = entries.get((section, name))
        if entry is not None:
            given[name] = _read(entry, reader, substitution)
    return given


def _read(
    entry: Entry, reader: Callable[[Value], T], substitution: "_Substitution | None" = None
) -> T:
    try:
        value = entry.value if substitution is None else substitution.value(entry.value)
        return reader(value)
    except ValueError as error:
        raise ConfigError(f"{entry.key}: {error}", entry.source, entry.line) from error


def _offset_http_port(
    handler: Handler, substitution: _Substitution, entries: dict[_Key, Entry]
) -> Handler:
    entry = entries["handler", "push_in_http_port"]
    port = _read(entry, lambda value: substitution.port(values.port_number(value.text)))
    return replace(handler, push_in_http_port=port)


def _override(runner: Runner, options: Options) -> Runner:
    try:
        if options.ports:
            ports = tuple(map(values.listen_address, options.ports))
            runner = replace(runner, http_port=ports, https_ports=(), local_ports=())
        if options.verbose:
            runner = replace(runner, log_level=LogLevels(3))
        elif options.log_level is not None:
            given = Value(options.log_level, (options.log_level,))
            runner = replace(runner, log_level=values.log_levels(given))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return runner
