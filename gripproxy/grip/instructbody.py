"""The body of an application/grip-instruct response."""

from collections.abc import Mapping
from dataclasses import replace

from gripproxy.errors import InstructError
from gripproxy.grip import fields
from gripproxy.grip.terms import (
    HOP_BY_HOP,
    KEEP_ALIVE_TIMEOUT,
    Channel,
    HoldMode,
    Instruct,
    KeepAlive,
    KeepAliveMode,
    Response,
    checked,
)
from gripproxy.http1.status import reason_phrase

NOT_JSON = "failed to parse application/grip-instruct content as JSON"

_HOLD_MODES = {mode.value: mode for mode in HoldMode}


def add_body(instruct: Instruct, body: bytes) -> Instruct:
    """`instruct`, read from the headers, with what the body adds. Raises InstructError."""
    try:
        document = fields.load_json(body)
    except ValueError as error:
        raise InstructError(NOT_JSON) from error
    if not isinstance(document, dict):
        # Pushpin: a JSON text is an object or an array.
        is_json = isinstance(document, list)
        raise InstructError("instruct must be an object" if is_json else NOT_JSON)
    if "hold" in document:
        instruct = _json_hold(document["hold"], instruct)
    if "response" in document:
        response = _json_response(document["response"], instruct.response)
        instruct = replace(instruct, response=response)
    if instruct.hold is None and instruct.next_link is None and not _has_body(document):
        # Pushpin 1.36 fails thus; there is nothing to answer the client with.
        raise InstructError("filter error: ")
    return instruct


def _has_body(document: Mapping[str, object]) -> bool:
    response = document.get("response")
    return isinstance(response, dict) and ("body" in response or "body-bin" in response)


def _json_hold(hold: object, instruct: Instruct) -> Instruct:
    if not isinstance(hold, dict):
        raise InstructError("instruct contains 'hold' with wrong type")
    mode = HoldMode.RESPONSE
    if "mode" in hold:
        given = _HOLD_MODES.get(fields.text(hold, "mode", "hold", InstructError))
        if given is None:
            raise InstructError("hold 'mode' must be set to either 'response' or 'stream'")
        mode = given
    if "channels" not in hold:
        raise InstructError("hold does not contain 'channels'")
    channels = hold["channels"]
    if not isinstance(channels, list):
        raise InstructError("hold contains 'channels' with wrong type")
    subscriptions = instruct.channels + tuple(_json_channel(channel) for channel in channels)
    timeout = instruct.timeout
    if "timeout" in hold:
        timeout = fields.number(hold, "timeout", "hold", InstructError)
    keep_alive = instruct.keep_alive
    if "keep-alive" in hold:
        keep_alive = _json_keep_alive(hold["keep-alive"], keep_alive)
    meta = instruct.meta
    if "meta" in hold:
        meta = {**meta, **fields.meta(hold, "hold", InstructError)}
    return replace(
        instruct,
        hold=mode,
        channels=subscriptions,
        timeout=timeout,
        keep_alive=keep_alive,
        meta=meta,
    )


def _json_channel(value: object) -> Channel:
    if not isinstance(value, dict):
        raise InstructError("channel is not an object")
    if "name" not in value:
        raise InstructError("channel does not contain 'name'")
    name = fields.text(value, "name", "channel", InstructError)
    prev_id = None
    if "prev-id" in value:
        prev_id = fields.text(value, "prev-id", "channel", InstructError)
    filters = value.get("filters", [])
    if not isinstance(filters, list):
        raise InstructError("channel contains 'filters' with wrong type")
    if not all(isinstance(name, str) for name in filters):
        raise InstructError("filters contains value with wrong type")
    return checked(Channel(name, prev_id, tuple(filters)))


def _json_keep_alive(value: object, given: KeepAlive | None) -> KeepAlive | None:
    """The keep-alive of the body; what it does not say stays as the header has `given` it."""
    if not isinstance(value, dict):
        raise InstructError("hold contains 'keep-alive' with wrong type")
    content = given.content if given else b""
    if "content-bin" in value:
        text = fields.text(value, "content-bin", "keep-alive", InstructError)
        content = fields.decode_base64(text)
    elif "content" in value:
        content = fields.encode(fields.text(value, "content", "keep-alive", InstructError))
    timeout = KEEP_ALIVE_TIMEOUT
    if "timeout" in value:
        timeout = fields.number(value, "timeout", "keep-alive", InstructError)
    mode = given.mode if given else KeepAliveMode.INTERVAL
    return KeepAlive(content, max(timeout, 1), mode) if content else None


def _json_response(value: object, response: Response) -> Response:
    if not isinstance(value, dict):
        raise InstructError("")
    code, reason = response.code, response.reason
    if "code" in value:
        code = fields.number(value, "code", "response", InstructError, 999)
        reason = reason_phrase(code)
    if "reason" in value:
        reason = fields.reason(value, "response", InstructError)
    headers = fields.headers(value, "response", InstructError) if "headers" in value else ()
    body = b""
    if "body-bin" in value:
        body = fields.decode_base64(fields.text(value, "body-bin", "response", InstructError))
    elif "body" in value:
        body = fields.encode(fields.text(value, "body", "response", InstructError))
    kept = tuple(field for field in headers if field[0].lower() not in HOP_BY_HOP)
    return Response(code, reason, kept, body)
