"""The head of a request to the backend, made from what the client sent.

The order of the steps is Pushpin's, since some of them see the result of others: route `header=`
first, then copies of the originals, removals, GRIP's own fields, X-Forwarded-*.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gripproxy.http1.head import CHUNKED, Headers
from gripproxy.values import ForwardedFor

GRIP_FEATURES = (
    b"status, session, link:next, link:gone, filter:skip-self, filter:skip-users, "
    b"filter:require-sub, filter:build-id, filter:var-subst, filter:http-check, filter:http-modify"
)

# Marks the copies that `orig_headers` makes.
ORIGINAL_MARK = b"eb9bf0f5-"

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"accept-encoding",
        b"content-encoding",
        b"transfer-encoding",
        b"expect",
    )
)
_ONE_HOP = frozenset((b"upgrade", b"sec-websocket-extensions"))
_BODILESS = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_AS_IT_CAME = ForwardedFor()
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NEEDS_QUOTES = re.compile(r'[;,"\\]')
_NO_IDS: Mapping[str, str] = {}
_FORWARDED_PROTO = frozenset((b"x-forwarded-proto", b"x-forwarded-protocol"))


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """What one route does to the request headers; made once when the routes are loaded."""

    replace: tuple[tuple[bytes, bytes], ...] = ()  # route `header=`; an empty value removes
    keep_originals: bool = False
    originals_need_mark: frozenset[bytes] = frozenset()
    drop_pushpin_route: bool = False
    cdn_loop: bytes = b""
    drop_forwarded_proto: bool = False
    add_forwarded_proto: tuple[bytes, ...] = ()  # names that carry the scheme of a TLS client
    forwarded_for: ForwardedFor = _AS_IT_CAME
    forwarded_for_trusted: ForwardedFor = _AS_IT_CAME
    grip: bool = True
    sign: Callable[[], bytes] | None = None  # the Grip-Sig token of this moment

    def dropped(self) -> frozenset[bytes]:
        """Names (lower case) that never go on as they came."""
        names = set(_HOP_BY_HOP) | {b"host", b"content-length"}
        if self.drop_pushpin_route:
            names.add(b"pushpin-route")
        if self.drop_forwarded_proto:
            names |= _FORWARDED_PROTO
        return frozenset(names)


class Peer(Protocol):
    """The other end of a client's connection."""

    @property
    def peer(self) -> str:
        """Its address, or an empty string when it has none."""


class Sender(NamedTuple):
    """Who asks: what the header rules need to know of the client."""

    connection: Peer  # asked for its address only where a rule wants it: that is a system call
    secure: bool
    trusted: bool  # an upstream GRIP proxy, which signed the request


class HeaderTransform:
    """`HeaderRules`, ready to be applied to many requests."""

    __slots__ = ("_dropped", "_of_the_hop", "_plain", "rules")

    def __init__(self, rules: HeaderRules) -> None:
        self.rules = rules
        self._dropped = rules.dropped()
        self._of_the_hop = self._dropped | _ONE_HOP
        # With these rules off, a header is either dropped by its name or goes on as it is.
        self._plain = not (rules.replace or rules.keep_originals or rules.cdn_loop)

    def apply(
        self,
        headers: Headers,
        sender: Sender,
        scheme: bytes,
        last_ids: Mapping[str, str] = _NO_IDS,
        *,
        handshake: bool = False,
    ) -> Headers:
        """The fields for the backend, without Host and framing.

        `last_ids` are the ids that a retry tells the backend, by channel. `handshake`: without what
        is for one hop only, and without `signature`, since requests are made from it again later.
        """
        rules, dropped = self.rules, self._of_the_hop if handshake else self._dropped
        if not self._plain:
            headers = self._rewrite(headers, sender.trusted)
        trusted = sender.trusted
        result = []
        forwarded_for: list[bytes] = []
        for field in headers:
            key = field[0].lower()
            if key in dropped:
                continue
            if key == b"x-forwarded-for":
                forwarded_for.append(field[1])
                continue
            if key.startswith(b"grip-") and not trusted:
                continue
            if key.startswith(ORIGINAL_MARK) and not rules.keep_originals:
                continue
            result.append(field)
        if rules.grip and not trusted:
            if not handshake:
                result.extend(self.signature(sender))
            result.append((b"Grip-Feature", GRIP_FEATURES))
            result.extend(_last_ids(last_ids))
        if sender.secure:
            result.extend((name, scheme) for name in rules.add_forwarded_proto)
        rule = rules.forwarded_for_trusted if trusted else rules.forwarded_for
        if forwarded_for or rule.append:
            addresses = _addresses(forwarded_for, rule, sender.connection)
            if addresses:
                result.append((b"X-Forwarded-For", b", ".join(addresses)))
        return result

    def signature(self, sender: Sender) -> Headers:
        """The field that tells the backend that the request is ours, if one is due."""
        rules = self.rules
        if sender.trusted or not rules.grip or rules.sign is None:
            return []
        return [(b"Grip-Sig", rules.sign())]

    def handshake(self, headers: Headers, sender: Sender, scheme: bytes) -> Headers:
        """The unsigned fields of a WebSocket's handshake for the backend.

        Extensions are for one hop only (RFC 6455 §9.1), so what is asked for is our own.
        """
        fields = self.apply(headers, sender, scheme, handshake=True)
        if self.rules.grip:
            fields.append((b"Sec-WebSocket-Extensions", b"grip"))
        return fields

    def _rewrite(self, headers: Headers, trusted: bool) -> Headers:
        """The steps that most routes do not ask for."""
        rules = self.rules
        if rules.replace:
            headers = replace_headers(headers, rules.replace)
        if rules.keep_originals and not trusted:
            copies = [
                (ORIGINAL_MARK + name, value)
                for name, value in headers
                if not name.lower().startswith(ORIGINAL_MARK)
                and name.lower() not in rules.originals_need_mark
            ]
            headers = headers + copies
        if rules.cdn_loop:
            passed = [value for name, value in headers if name.lower() == b"cdn-loop"]
            headers = [field for field in headers if field[0].lower() != b"cdn-loop"]
            headers.append((b"CDN-Loop", b", ".join([*passed, rules.cdn_loop])))
        return headers


def replace_headers(headers: Headers, replace: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Each name of `replace` with its value in place of the client's; an empty value only removes.

    Of a repeated name the first counts, and what is added comes in reverse order, as in Pushpin.
    """
    values: dict[bytes, tuple[bytes, bytes]] = {}
    for name, value in replace:
        values.setdefault(name.lower(), (name, value))
    kept = [field for field in headers if field[0].lower() not in values]
    return kept + [field for field in reversed(values.values()) if field[1]]


def request_bytes(
    method: bytes, target: bytes, host: bytes, headers: Headers, length: int
) -> bytes:
    """The head on the wire (RFC 9112 §3) for a body of `length` bytes or CHUNKED."""
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target, host)]
    lines += [b"%b: %b\r\n" % field for field in headers]
    if length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked\r\n\r\n")
    elif length or method not in _BODILESS:
        lines.append(b"Content-Length: %d\r\n\r\n" % length)
    else:
        lines.append(b"\r\n")
    return b"".join(lines)


def _last_ids(ids: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    """A Grip-Last field for each channel; names and ids that no field can carry are left out."""
    for channel, last in ids.items():
        if _CONTROL.search(channel) or _CONTROL.search(last):
            continue
        if _NEEDS_QUOTES.search(last):
            last = '"' + last.replace("\\", "\\\\").replace('"', '\\"') + '"'
        yield b"Grip-Last", f"{channel}; last-id={last}".encode("utf-8", "surrogateescape")


def _addresses(values: Iterable[bytes], rule: ForwardedFor, connection: Peer) -> list[bytes]:
    """The addresses for one X-Forwarded-For, which Pushpin puts last even if no rule applies."""
    addresses = [part.strip() for value in values for part in value.split(b",") if part.strip()]
    if rule.keep is not None:
        addresses = addresses[max(len(addresses) - rule.keep, 0) :]
    if rule.append and connection.peer:
        addresses.append(connection.peer.encode())
    return addresses
