"""Where the routes come from, and what is made of them: header rules, with the keys that sign."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from gripproxy import routesfile
from gripproxy.backend.headers import HeaderRules, HeaderTransform
from gripproxy.clients.routing import Routing
from gripproxy.config import Config
from gripproxy.errors import ConfigError, KeyFormatError
from gripproxy.grip import signature
from gripproxy.routes import Route, RouteTable
from gripproxy.routesfile import Complaint

log = logging.getLogger("gripproxy")

_PROTO_HEADERS = {
    "none": (),
    "proto-only": (b"X-Forwarded-Proto",),
    "true": (b"X-Forwarded-Proto", b"X-Forwarded-Protocol"),
}


class RouteSource:
    """The routes file, or the lines of the command line in its place."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._seen = self._stat()
        self._signers: dict[tuple[str, str], Callable[[], bytes] | None] = {}

    def changed(self) -> bool:
        """Whether the file is another than at the last call."""
        seen, self._seen = self._seen, self._stat()
        return seen != self._seen

    def load(self) -> Routing:
        """The routes of this moment; faulty lines are logged. Raises ConfigError."""
        self._seen = self._stat()
        table, complaints = load_routes(self._config)
        for complaint in complaints:
            log.warning("%s", complaint)
        log.info("routes loaded with %d entries", len(table.routes))
        if not table.routes:
            log.warning("there are no routes: every request is answered with 502")
        self._signers.clear()  # key files may have changed as well
        transforms = {
            id(route): HeaderTransform(self._header_rules(route)) for route in table.routes
        }
        return Routing(table, transforms)

    def _stat(self) -> tuple[int, int, int] | None:
        """What changes when the file does, or is replaced."""
        path = self._config.proxy.routesfile
        if self._config.routes or path is None:
            return None
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _header_rules(self, route: Route) -> HeaderRules:
        proxy = self._config.proxy
        set_proto = proxy.set_x_forwarded_protocol
        return HeaderRules(
            replace=route.headers,
            keep_originals=route.orig_headers,
            originals_need_mark=frozenset(name.encode() for name in proxy.orig_headers_need_mark),
            drop_pushpin_route=proxy.accept_pushpin_route,
            cdn_loop=proxy.cdn_loop.encode(),
            drop_forwarded_proto=set_proto != "none" or proxy.accept_x_forwarded_protocol,
            add_forwarded_proto=_PROTO_HEADERS[set_proto],
            forwarded_for=proxy.x_forwarded_for,
            forwarded_for_trusted=proxy.x_forwarded_for_trusted,
            grip=not route.no_grip,
            sign=self._signer(
                route.sig_iss if route.sig_iss is not None else proxy.sig_iss,
                route.sig_key if route.sig_key is not None else proxy.sig_key,
            ),
        )

    def _signer(self, issuer: str, key_text: str) -> Callable[[], bytes] | None:
        """What signs requests, or None: they go unsigned."""
        identity = (issuer, key_text)
        if identity not in self._signers:
            key = load_key(self._config, "sig_key", key_text) if issuer else None
            signer = None
            if key is not None and key.can_sign:
                signer = _by_wall_clock(signature.Signer(key, issuer))
            elif key is not None:
                log.error("sig_key: a public key cannot sign; requests go unsigned")
            self._signers[identity] = signer
        return self._signers[identity]


def load_routes(config: Config) -> tuple[RouteTable, list[Complaint]]:
    """The routes that `config` names, and what is wrong with single lines. Raises ConfigError."""
    if config.routes:
        table, complaints = routesfile.parse("\n".join(config.routes), "--route", Path.cwd())
        if not table.routes:
            raise ConfigError(str(complaints[0]) if complaints else "--route: no routes")
        return table, complaints
    if config.proxy.routesfile is None:
        raise ConfigError("no routes: set routesfile in [proxy], or use --route", config.path)
    return routesfile.load(config.proxy.routesfile)


def load_key(config: Config, name: str, text: str) -> signature.Key | None:
    """The key that the setting `name` gives; None: there is none, or it is bad, which is logged."""
    try:
        return signature.load_key(text, config.base_dir)
    except KeyFormatError as error:
        log.error("%s: %s; it counts as not set", name, error)
        return None


def _by_wall_clock(signer: signature.Signer) -> Callable[[], bytes]:
    return lambda: signer.token(time.time())
