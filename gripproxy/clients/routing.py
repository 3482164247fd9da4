"""Which route a client's request takes."""

import time
from dataclasses import dataclass
from functools import lru_cache

from gripproxy.backend.headers import HeaderTransform
from gripproxy.grip import signature
from gripproxy.http1.head import RequestHead, header
from gripproxy.routes import Route, RouteTable


@dataclass(frozen=True, slots=True)
class Routing:
    """A routes table with what was made of it; a reload swaps the whole."""

    table: RouteTable
    transforms: dict[int, HeaderTransform]  # by id() of the route

    def find(self, request: RequestHead, host: str, *, secure: bool, by_id: bool) -> Route | None:
        """The route of `request`; with `by_id`, its Pushpin-Route header counts before all else."""
        if by_id:
            wanted = header(request.headers, b"pushpin-route")
            if wanted is not None:
                return self.table.by_id(wanted.decode("utf-8", "surrogateescape"), request.target)
        return self.table.match(host, request.target, ssl=secure, websocket=False)

    def transform(self, route: Route) -> HeaderTransform:
        """What `route` does to request headers."""
        return self.transforms[id(route)]


@lru_cache(maxsize=4096)
def split_authority(authority: bytes, secure: bool) -> tuple[str, bytes]:
    """The host's name for routing, and the authority as URLs show it.

    Both are in lower case, and the authority has no default port.

    A request that names no host is taken as one for `localhost`, as in Pushpin.
    """
    lowered = authority.lower() or b"localhost"
    name, _, port = lowered.rpartition(b":")
    if not name or lowered.endswith(b"]"):
        name, port = lowered, b""
    if port in (b"", b"443" if secure else b"80"):
        lowered = name
    return name.strip(b"[]").decode("latin-1"), lowered


def says_secure(request: RequestHead) -> bool:
    """Whether a front end in front of us says that the client came by TLS."""
    value = header(request.headers, b"x-forwarded-proto") or header(
        request.headers, b"x-forwarded-protocol"
    )
    return value in (b"https", b"wss")


def is_signed(request: RequestHead, key: signature.Key) -> bool:
    """Whether the request comes from a GRIP proxy that we trust."""
    token = header(request.headers, b"grip-sig")
    return token is not None and signature.verify(key, token, time.time())
