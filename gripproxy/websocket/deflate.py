"""Compression of messages: permessage-deflate (RFC 7692).

What we compress never depends on an earlier message, so that one compressed message serves all
subscribers. What peers compress may.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_extension

from gripproxy.errors import HttpError, WebSocketError

# What a client's end of a connection offers; a bare offer leaves the choice to the other end.
OFFER = b"permessage-deflate"

_NAME = "permessage-deflate"
# An empty stored block without its first byte: each message ends with it, and it is not sent.
_TAIL = b"\x00\x00\xff\xff"
# A final block ends a stream. Senders that cannot flush have one in a message (§7.2.3.5); a payload
# of nothing else would cost as many streams as it has pairs of bytes.
_STREAMS_MAX = 64

# A backend's `grip` may have a comma in its prefix, and other things that would not parse.
_ELEMENTS = re.compile(r'(?:"[^"]*"?|[^",])+')

_VALUES = {str(bits): bits for bits in range(8, 16)}

_Parameters = Sequence[tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two ends agreed on."""

    bits: int = 15  # of the window of what we send
    no_context_takeover: bool = False  # what the peer sends does not depend on earlier messages


def negotiate(values: Iterable[bytes]) -> tuple[Agreement, bytes] | None:
    """What we accept of a client's Sec-WebSocket-Extensions, and the value that answers it.

    None: no offer is acceptable. Raises HttpError (400) for a malformed value.
    """
    for value in filter(None, values):  # an empty one offers nothing
        try:
            extensions = parse_extension(value.decode("latin-1"))
        except InvalidHeaderFormat as error:
            raise HttpError("malformed Sec-WebSocket-Extensions") from error
        for name, parameters in extensions:
            if name == _NAME and (offer := _read(parameters)) is not None:
                bits = offer.server_bits
                if bits == 8:
                    continue  # zlib cannot compress for such a window
                answer = b"permessage-deflate; server_no_context_takeover"
                if offer.client_resets:
                    answer += b"; client_no_context_takeover"
                if bits is not None:
                    answer += b"; server_max_window_bits=%d" % bits
                return Agreement(bits or 15, offer.client_resets), answer
    return None


def accepted(values: Iterable[bytes]) -> Agreement | None:
    """What a backend accepted of OFFER, by its Sec-WebSocket-Extensions; None: no compression.

    Raises WebSocketError (1010) for terms that were not offered. Other extensions are passed over,
    as in Pushpin: one that changes frames fails at the first of them.
    """
    agreement = None
    for piece in _ELEMENTS.findall(b",".join(values).decode("latin-1")):
        if piece.partition(";")[0].strip(" \t") != _NAME:
            continue
        try:
            ((_, parameters),) = parse_extension(piece.strip(" \t"))
        except InvalidHeaderFormat as error:
            raise WebSocketError("malformed Sec-WebSocket-Extensions", 1010) from error
        answer = _read(parameters)
        if agreement is not None or answer is None or answer.has_client_bits:
            raise WebSocketError("permessage-deflate was accepted otherwise than offered", 1010)
        agreement = Agreement(no_context_takeover=answer.server_resets)
    return agreement


@dataclass(slots=True)
class _Terms:
    """The parameters of one offer or answer."""

    server_resets: bool = False
    client_resets: bool = False
    server_bits: int | None = None
    has_client_bits: bool = False


def _read(parameters: _Parameters) -> _Terms | None:
    """`parameters` if each is known, has a value that it may have, and comes once (§7.1)."""
    terms = _Terms()
    seen = set()
    for name, value in parameters:
        if name in seen:
            return None
        seen.add(name)
        if name == "server_no_context_takeover" and value is None:
            terms.server_resets = True
        elif name == "client_no_context_takeover" and value is None:
            terms.client_resets = True
        elif name == "server_max_window_bits" and value in _VALUES:
            terms.server_bits = _VALUES[value]
        elif name == "client_max_window_bits" and (value is None or value in _VALUES):
            terms.has_client_bits = True
        else:
            return None
    return terms


class Inflater:
    """Inflates what a peer sends, at most `bound` bytes of a message."""

    __slots__ = ("_forgets", "_room", "_stream", "bound")

    def __init__(self, no_context_takeover: bool, bound: int) -> None:
        self._forgets = no_context_takeover
        self._stream: zlib._Decompress | None = None
        self._room = bound
        self.bound = bound

    def inflate(self, payload: bytes, fin: bool) -> bytes:
        """The content of a payload; `fin`: its message ends here.

        Raises WebSocketError: 1007 for what is not deflated, 1009 for a message over the bound.
        """
        stream = self._stream or zlib.decompressobj(-15)
        data = payload + _TAIL if fin else payload
        pieces = []
        for _ in range(_STREAMS_MAX):
            try:
                # One byte more than there is room for tells that the rest would not fit; less
                # than asked for tells that zlib holds nothing back.
                content = stream.decompress(data, self._room + 1)
            except zlib.error as error:
                raise WebSocketError("invalid compressed data", 1007) from error
            self._room -= len(content)
            if self._room < 0:
                raise WebSocketError("message too large", 1009)
            pieces.append(content)
            if not stream.eof:
                break
            data = stream.unused_data
            stream = zlib.decompressobj(-15)
        else:
            raise WebSocketError("invalid compressed data", 1007)
        if fin:
            self._room = self.bound
        self._stream = None if fin and self._forgets else stream
        return content if len(pieces) == 1 else b"".join(pieces)


def compress(payload: bytes, bits: int = 15) -> bytes:
    """A whole message, for a window of `bits`."""
    stream = zlib.compressobj(wbits=-bits)
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Deflater:
    """Compresses messages that come in pieces."""

    __slots__ = ("_bits", "_stream")

    def __init__(self, bits: int = 15) -> None:
        self._bits = bits
        self._stream: zlib._Compress | None = None

    def feed(self, piece: bytes, fin: bool) -> bytes:
        """The payload for the next piece of a message; `fin`: it is the last."""
        stream = self._stream or zlib.compressobj(wbits=-self._bits)
        payload = stream.compress(piece) + stream.flush(zlib.Z_SYNC_FLUSH)
        self._stream = None if fin else stream
        return payload[:-4] if fin else payload
