"""The answers of the publish port, with their fields in the order that Pushpin uses."""

import logging

from gripproxy.control.request import JSON, TEXT, Request
from gripproxy.http1.status import reason_phrase

log = logging.getLogger("gripproxy.control")


def done(word: bytes, answer_type: bytes) -> bytes:
    """The body that says what was done, in the type that the client asked for."""
    return b'{"message":"%b"}\n' % word if answer_type is JSON else b"%b\n" % word


def answer(
    request: Request,
    code: int,
    body: bytes,
    content_type: bytes = TEXT,
    *,
    fields: bytes = b"",
    items: int = -1,
) -> bytes:
    """The whole answer, and its line in the log."""
    if log.isEnabledFor(logging.INFO):
        counted = f" items={items}" if items >= 0 else ""
        method, target = (
            word.decode("ascii", "backslashreplace") for word in (request.method, request.target)
        )
        log.info("control: %s %s code=%d %d%s", method, target, code, len(body), counted)
    whole = message(request.http10, code, content_type, body, fields, close=not request.keep_alive)
    # Pushpin answers HEAD with content; on a connection that goes on that would be the next answer.
    return whole[: -len(body)] if request.method == b"HEAD" and request.keep_alive else whole


def message(
    http10: bool, code: int, content_type: bytes, body: bytes, fields: bytes, *, close: bool
) -> bytes:
    """A whole answer; `fields` are further ones, each with its line end."""
    return b"HTTP/1.%d %d %b\r\n%bContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        not http10,
        code,
        reason_phrase(code),
        fields,
        content_type,
        b"Connection: close\r\n" if close else b"",
        len(body),
        body,
    )
