"""Which route a client's request takes."""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from gripproxy.backend.headers import HeaderTransform, Sender
from gripproxy.backend.request import Outgoing
from gripproxy.errors import HttpError
from gripproxy.grip import signature
from gripproxy.http1.head import RequestHead, header
from gripproxy.routes import Route, RouteTable

if TYPE_CHECKING:
    from gripproxy.clients.connection import ClientConnection
    from gripproxy.clients.front import Front

# Bytes of scheme, host and target together, as in Pushpin.
URI_MAX = 4096


# Indexed by secure * 2 + websocket.
_SCHEMES = (b"http", b"ws", b"https", b"wss")


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
                name = wanted.decode("utf-8", "surrogateescape")
                # Pushpin: of the two kinds of requests only this one gets over a shared id.
                if not (request.websocket and self.table.is_shared(name)):
                    return self.table.by_id(name, request.target)
        return self.table.match(host, request.target, ssl=secure, websocket=request.websocket)

    def transform(self, route: Route) -> HeaderTransform:
        """What `route` does to request headers."""
        return self.transforms[id(route)]


def route_request(front: "Front", client: "ClientConnection", request: RequestHead) -> Outgoing:
    """What is to be asked of which route's targets.

    Raises HttpError with the line to answer: 414, or 502 when there is no route.
    """
    secure = client.secure or (front.accept_forwarded_proto and says_secure(request))
    scheme = _SCHEMES[secure * 2 + request.websocket]
    name, authority = split_authority(request.host or b"", secure)
    if len(scheme) + 3 + len(authority) + len(request.target) > URI_MAX:
        raise HttpError(f"Request URI size exceeded limit of {URI_MAX} bytes.", 414)
    route = front.routing.find(request, name, secure=secure, by_id=front.accept_pushpin_route)
    if route is None:
        url = b"%b://%b%b" % (scheme, authority, request.target)
        front.warn("%s: no route is for this host, path and protocol", url.decode("latin-1"))
        raise HttpError("Route not found", 502)
    trusted = front.upstream_key is not None and is_signed(request, front.upstream_key)
    return Outgoing(
        route,
        request.method,
        request.target,
        authority,
        scheme,
        request.headers,
        Sender(client, secure, trusted),
        front.routing.transform(route),
    )


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
