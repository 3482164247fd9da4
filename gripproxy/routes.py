"""Routes and targets, and which route a request takes.

`gripproxy.routesfile` reads them. A table never changes: a reload makes another one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# Looking for one octet, as an int, is seven times as fast as looking for bytes.
_DOT, _PERCENT, _BACKSLASH, _QUESTION_MARK = b".%\\?"
# Pushpin's number of the level of access lines.
_INFO = 2
# A segment of a path that means this directory or the one above (WHATWG URL, "dot segments").
_DOT_SEGMENT_MAX = len(b"%2e%2e")


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests may go; the targets of a route are tried in order."""

    host: str = ""  # a name or an address, without brackets
    port: int = 0
    test: bool = False  # answered by the built-in test handler; `host` and `port` mean nothing
    ssl: bool = False
    insecure: bool = False  # any certificate will do
    host_header: str | None = None  # H[:P] for Host and for the certificate's name
    trust_connect_host: bool = False  # the certificate's name is `host`, whatever Host says
    untrusted: bool = False  # must not lead to private addresses
    over_http: bool = False
    one_event: bool = False
    subs: tuple[str, ...] = ()  # channels that every hold is subscribed to
    client_cert: Path | None = None
    client_key: Path | None = None

    @property
    def name(self) -> str:
        """What logs and errors call it."""
        if self.test:
            return "test"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """A condition, the targets, and what is done to the requests that match."""

    host: str  # "*": any; "": none, reachable by id only
    targets: tuple[Target, ...]
    proto: str | None = None  # "http" or "ws"; None: either
    ssl: bool | None = None  # None: either
    path_beg: bytes = b""
    id: str | None = None  # given in the file
    sig_iss: str | None = None
    sig_key: str | None = None  # a path after `file:` is absolute
    prefix: str = ""  # of channel names
    orig_headers: bool = False
    as_host: str | None = None  # H[:P]
    path_rem: int = 0  # bytes; with replace_beg, the length of path_beg
    replace_beg: bytes | None = None
    debug: bool = False
    cross_origin: bool = False
    jsonp_mode: str = "extended"  # or "basic"
    jsonp_cb: str = "callback"  # name of the query parameter
    jsonp_body: str | None = None
    jsonp_defcb: str | None = None
    jsonp_defmethod: str = "GET"
    session: bool = False
    sockjs: bytes | None = None
    sockjs_as_path: bytes | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()  # as listed; an empty value removes
    no_grip: bool = False
    log_level: int | None = None
    line: int = 0
    key: str = field(init=False, default="")  # the id, or one made from the condition

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.id or _derived_id(self))

    @property
    def quiet(self) -> bool:
        """Whether the access log is to say nothing of its requests."""
        return self.log_level is not None and 0 <= self.log_level < _INFO


class RouteTable:
    """Routes in the order of their file, ready to be asked for each request."""

    __slots__ = ("_any", "_by_id", "_named", "_shared", "routes")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self.routes = tuple(routes)
        hosts: dict[str, list[Route]] = {"*": []}
        self._by_id: dict[str, Route] = {}
        self._shared: set[str] = set()
        for route in self.routes:
            if route.host:
                hosts.setdefault(route.host, []).append(route)
            if route.key in self._by_id:
                self._shared.add(route.key)
            self._by_id[route.key] = route
        self._any = _choices(hosts.pop("*"))
        self._named = {host: _choices(those) for host, those in hosts.items()}

    def match(self, host: str, path: bytes, *, ssl: bool, websocket: bool) -> Route | None:
        """The route of a request for `host` (any case, any port) and `path` (a query is ignored).

        A host that any route names is never served by the routes of `*`.
        """
        named = self._named
        choices = self._any if not named else named.get(bare_host(host), self._any)
        choice = choices[ssl * 2 + websocket]
        return choice.fixed if choice.lengths is None else choice.by_path(path)

    def by_id(self, id: str, path: bytes) -> Route | None:
        """The route called `id`, if it is the only one of that name and begins `path`."""
        route = self._by_id.get(id)
        if route is None or id in self._shared or not _bare_path(path).startswith(route.path_beg):
            return None
        return route

    def is_shared(self, id: str) -> bool:
        """Whether several routes are called `id`, so that none can be asked for by it."""
        return id in self._shared


def _derived_id(route: Route) -> str:
    # Pushpin 1.36 and 2.0 both name the two states of ssl the wrong way round.
    ssl = "*" if route.ssl is None else "no-ssl" if route.ssl else "ssl"
    path = route.path_beg.decode("utf-8", "surrogateescape") or "*"
    return f"{route.host or '*'},{route.proto or '*'},{ssl},{path}"


def bare_host(authority: str) -> str:
    """The host of `HOST[:PORT]`, in lower case and without brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0].lower()
    return authority.partition(":")[0].lower()


def normalize_path(path: bytes) -> bytes:
    """`path` with its dot segments resolved, as the WHATWG URL standard does; for matching only."""
    if _DOT not in path and _PERCENT not in path and _BACKSLASH not in path:
        return path
    if b"/." not in path and b"%2" not in path and _BACKSLASH not in path:
        return path  # `/a.js`, say
    first, *segments = path.replace(b"\\", b"/").split(b"/")
    if first or not segments:
        return path  # `*`, or no path at all
    kept: list[bytes] = []
    for segment in segments:
        dots = segment
        if len(segment) <= _DOT_SEGMENT_MAX:
            dots = segment.lower().replace(b"%2e", b".")
        if dots == b"..":
            del kept[-1:]
        elif dots != b".":
            kept.append(segment)
    if dots in (b".", b".."):
        kept.append(b"")  # it was a directory
    return b"/" + b"/".join(kept)


def rewrite(route: Route, path_and_query: bytes) -> bytes:
    """What the backend is asked for in place of `path_and_query`: path_rem and replace_beg applied.

    Bytes are counted where they were matched, so a path with dot segments is resolved first.
    """
    if not route.path_rem and not route.replace_beg:
        return path_and_query
    path, mark, query = path_and_query.partition(b"?")
    path = (route.replace_beg or b"") + normalize_path(path)[route.path_rem :]
    if not path.startswith(b"/"):
        path = b"/" + path
    return path + mark + query


class _Choice:
    """The routes that a host has for one protocol, with or without TLS."""

    __slots__ = ("_scanned", "fixed", "lengths")

    def __init__(self, routes: list[Route]) -> None:
        # With `lengths` None the path does not matter, and every request takes `fixed`.
        self.lengths: list[tuple[int, dict[bytes, Route]]] | None = None
        self.fixed: Route | None = None
        # Where only some of the routes have a condition on TLS, the order of the file counts.
        self._scanned = routes if len({route.ssl is None for route in routes}) > 1 else []
        if any(route.path_beg for route in routes):
            self.lengths = _by_length(routes)
        else:
            self.fixed = _scan(routes, b"")

    def by_path(self, path: bytes) -> Route | None:
        path = _bare_path(path)
        if self._scanned:
            return _scan(self._scanned, path)
        for length, routes in self.lengths or ():
            route = routes.get(path[:length])
            if route is not None:
                return route
        return None


def _choices(routes: list[Route]) -> tuple[_Choice, ...]:
    """Indexed by ssl * 2 + websocket."""
    return tuple(
        _Choice([r for r in routes if r.ssl in (None, ssl) and r.proto in (None, proto)])
        for ssl in (False, True)
        for proto in ("http", "ws")
    )


def _by_length(routes: list[Route]) -> list[tuple[int, dict[bytes, Route]]]:
    """By length of path_beg, the longest first; those that name a protocol before the others."""
    groups: dict[tuple[bool, int], dict[bytes, Route]] = {}
    for route in routes:
        group = groups.setdefault((route.proto is not None, len(route.path_beg)), {})
        group.setdefault(route.path_beg, route)
    return [(length, groups[named, length]) for named, length in sorted(groups, reverse=True)]


def _scan(routes: list[Route], path: bytes) -> Route | None:
    """Pushpin: the first match is the best until a later one beats it by protocol, path or TLS."""
    best: Route | None = None
    for route in routes:
        if path.startswith(route.path_beg) and (best is None or _beats(route, best)):
            best = route
    return best


def _beats(route: Route, best: Route) -> bool:
    if (route.proto is None) != (best.proto is None):
        return best.proto is None
    if len(route.path_beg) > len(best.path_beg):
        return True
    return best.ssl is None and route.ssl is not None


def _bare_path(path: bytes) -> bytes:
    if _QUESTION_MARK in path:
        path = path[: path.index(b"?")]
    # The test of normalize_path, here too to save most requests the call.
    if _DOT in path or _PERCENT in path or _BACKSLASH in path:
        path = normalize_path(path)
    return path
