"""The `gripproxy-publish` command: one message to one channel, from a shell.

It takes the arguments of `pushpin-publish` 2.0 and makes the same items. Its exit status is 0 when
the message was handed over, 1 when it was not (`Error: ...` on standard error), 2 for arguments
that do not parse.
"""

import argparse
import base64
import http.client
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import zmq

from gripproxy import __version__
from gripproxy.errors import GripProxyError, PublishError
from gripproxy.grip import signature, tnetstring

DEFAULT_SPEC = "http://localhost:5561"
HTTP_SECONDS = 30.0
"""How long to wait for a connection and for each piece of an HTTP answer."""
ZMQ_SECONDS = 5.0
"""How long to wait for somebody at a ZeroMQ endpoint, and then for the message to leave."""
ANSWER_BYTES = 10_000
"""How much of a refusal is read."""

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Where to POST, and the value of Authorization, if any."""

    secure: bool
    host: str
    port: int | None
    path: str
    authorization: str | None

    def __str__(self) -> str:
        scheme = "https" if self.secure else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{scheme}://{host}{port}{self.path}"


def main(argv: Sequence[str] | None = None) -> int:
    """Publish as the arguments say; returns the exit status."""
    options = _parser().parse_intermixed_args(argv)
    spec = options.spec or os.environ.get("GRIP_URL") or DEFAULT_SPEC
    try:
        item = make_item(options)
        if spec.lower().startswith(("http://", "https://")):
            _publish_http(http_endpoint(spec, options.user, options.bearer, time.time()), item)
        else:
            _refuse_credentials(options.user, options.bearer)
            _publish_zmq(spec, item)
    except (GripProxyError, OSError) as e:
        print(f"Error: {e}", file=sys.stderr)
        return 1
    print("Published")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gripproxy-publish",
        description="Publish a message to the subscribers of a channel.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("channel", type=_text, help="channel to publish to")
    add(
        "content",
        nargs="?",
        help="what subscribers get; @FILE takes a file's bytes; put -- before content with a dash",
    )
    add("--id", type=_text, help="id of the item")
    add("--prev-id", type=_text, help="id of the item before it")
    add("--sender", type=_text, help="meta value `sender`, for the filter skip-self")
    add("--code", default="200", help="status of long-poll responses (default: 200)")
    add(
        "-H", "--header", action="append", default=[], type=_text, metavar='"K: V"',
        help="add a header to long-poll responses; repeatable",
    )  # fmt: skip
    add(
        "-M", "--meta", action="append", default=[], type=_text, metavar='"K=V"',
        help="add a meta value; repeatable",
    )  # fmt: skip
    add("--hint", action="store_true", help="let subscribers ask the backend, instead of content")
    add("--close", action="store_true", help="close streams and WebSocket connections")
    add("--patch", action="store_true", help="content is a JSON patch of the held responses' body")
    add("--no-seq", action="store_true", help="deliver at once, whatever --prev-id says")
    add("--no-eol", action="store_true", help="add no newline to content for HTTP subscribers")
    add(
        "--spec",
        help=f"where to publish: http(s) URL, with iss= and key= in its query for a signed token, "
        f"or a ZeroMQ endpoint of a PULL socket (default: $GRIP_URL, else {DEFAULT_SPEC})",
    )
    credentials = parser.add_mutually_exclusive_group()
    credentials.add_argument(
        "-u", "--user", type=_text, metavar="USER:PASS", help="basic authentication, https only"
    )
    credentials.add_argument(
        "-B", "--bearer", type=_text, metavar="TOKEN", help="bearer authentication, https only"
    )
    parser.add_argument(
        "-V", "--version", action="version", version=f"gripproxy-publish {__version__}"
    )
    return parser


def _text(argument: str) -> str:
    """The argument's bytes as UTF-8, whatever the locale made of them."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def make_item(options: argparse.Namespace) -> Item:
    """The publish item that the options describe; contents are `bytes`.

    Raises PublishError for a value that does not parse and OSError for a file that cannot be read.
    """
    item: Item = {"channel": options.channel, "formats": _formats(options)}
    meta = {} if options.sender is None else {"sender": options.sender}
    meta |= dict(_pair(text, "=", 'meta must be in the form "name=value"') for text in options.meta)
    optional = {"id": options.id, "prev-id": options.prev_id, "meta": meta or None}
    item |= {name: value for name, value in optional.items() if value is not None}
    if options.no_seq:
        item["no-seq"] = True
    return item


def _formats(options: argparse.Namespace) -> dict[str, Item]:
    response: Item = {"code": _code(options.code)}
    headers = [
        (name, value.strip())
        for name, value in (
            _pair(text, ":", 'header must be in the form "name: value"') for text in options.header
        )
    ]
    if headers:
        response["headers"] = [list(pair) for pair in headers]
    if options.hint:
        return {f: {"action": "hint"} for f in ("http-response", "http-stream", "ws-message")}
    if options.close:
        return {f: {"action": "close"} for f in ("http-stream", "ws-message")}
    if options.content is None:
        raise PublishError("must specify content")
    from_file = options.content.startswith("@")
    content = _read(options.content[1:]) if from_file else os.fsencode(options.content)
    if options.patch:
        return {"http-response": response | {"body-patch": _patch(content)}}
    line = content if from_file or options.no_eol else content + b"\n"
    return {
        "http-response": response | {"body": line},
        "http-stream": {"content": line},
        "ws-message": {"content": content},
    }


def _code(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3):
        raise PublishError("code must be an integer between 0 and 999")
    return int(text)


def _pair(text: str, separator: str, complaint: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found:
        raise PublishError(complaint)
    return name, value


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as e:
        raise PublishError(f"cannot read file {name}: {e.strerror}") from e


def _patch(content: bytes) -> list[Any]:
    try:
        patch = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise PublishError(f"patch is not valid JSON: {e}") from e
    if not isinstance(patch, list):
        raise PublishError("patch content must be a JSON array")
    return patch


# -- by HTTP ---------------------------------------------------------------------------------------


def http_endpoint(spec: str, user: str | None, bearer: str | None, now: float) -> HttpEndpoint:
    """Read an http(s) spec as GRIP client libraries read GRIP_URL.

    `iss` and `key` in its query become a signed bearer token that lasts an hour from `now` (Unix
    time, seconds), `key` alone is the bearer token itself; `user` and `bearer` take precedence. A
    slash at the end of the path does not count. Raises PublishError.
    """
    _encode(spec)
    try:
        url = urlsplit(spec)
        port = url.port
    except ValueError as e:
        raise PublishError(f"invalid URL {spec}: {e}") from e
    if not url.hostname:
        raise PublishError(f"invalid URL {spec}: no host")
    if url.username is not None:
        raise PublishError("give user and password with --user, not inside the URL")
    secure = url.scheme == "https"
    if not secure:
        _refuse_credentials(user, bearer)
    authorization = None
    if user is not None:
        authorization = "Basic " + base64.b64encode(_encode(user)).decode()
    elif bearer is not None:
        authorization = f"Bearer {bearer}"
    elif token := _token(url.query, now):
        authorization = f"Bearer {token}"
    path = url.path.rstrip("/") + "/publish/"
    return HttpEndpoint(secure, url.hostname, port, path, authorization)


def _refuse_credentials(user: str | None, bearer: str | None) -> None:
    if user is not None or bearer is not None:
        raise PublishError("Authentication requires https")


def _token(query: str, now: float) -> str | None:
    values = parse_qs(query)
    issuer, key = (values.get(name, [""])[0] for name in ("iss", "key"))
    if not issuer:
        return key or None
    if not key:
        raise PublishError("the URL has iss= but no key=")
    # A query's plus sign means a space, which base64 never has.
    text = key.replace(" ", "+") if key.startswith("base64:") else key
    secret = signature.load_key(text, Path.cwd())
    if secret is None:
        raise PublishError("the URL's key= is empty")
    return signature.sign(secret, issuer, now).decode()


def _publish_http(endpoint: HttpEndpoint, item: Item) -> None:
    body = _encode(json.dumps({"items": [_json_value(item)]}, ensure_ascii=False))
    headers = {"Content-Type": "application/json"}
    if endpoint.authorization is not None:
        headers["Authorization"] = endpoint.authorization
    kind = http.client.HTTPSConnection if endpoint.secure else http.client.HTTPConnection
    try:
        with closing(kind(endpoint.host, endpoint.port, timeout=HTTP_SECONDS)) as connection:
            connection.request("POST", endpoint.path, body, headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as e:
        reason = getattr(e, "strerror", None) or str(e) or type(e).__name__
        raise PublishError(f"cannot publish to {endpoint}: {reason}") from e
    if response.status != 200:
        text = answer.decode("utf-8", "replace").strip()
        raise PublishError(text or f"{endpoint} answered {response.status} {response.reason}")


def _json_value(value: Any) -> Any:
    """The value for JSON: bytes become text, or base64 under NAME-bin where they are not UTF-8."""
    if not isinstance(value, dict):
        return value
    out = {}
    for name, inner in value.items():
        if not isinstance(inner, bytes):
            out[name] = _json_value(inner)
        elif _is_utf8(inner):
            out[name] = inner.decode()
        else:
            out[f"{name}-bin"] = base64.b64encode(inner).decode()
    return out


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        raise PublishError("only content may be other than UTF-8 over HTTP") from e


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


# -- by ZeroMQ -------------------------------------------------------------------------------------


def _publish_zmq(endpoint: str, item: Item) -> None:
    # Bytes that are not UTF-8 make a binary WebSocket message, as they do over HTTP.
    message = item["formats"].get("ws-message", {})
    if not _is_utf8(message.get("content", b"")):
        message["content-bin"] = message.pop("content")
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        milliseconds = int(ZMQ_SECONDS * 1000)
        socket.set(zmq.SNDTIMEO, milliseconds)
        socket.set(zmq.LINGER, milliseconds)
        # Without IMMEDIATE the message would count as sent while nobody is there.
        socket.set(zmq.IMMEDIATE, 1)
        try:
            socket.connect(endpoint)
            socket.send(tnetstring.dumps(item))
        except zmq.Again as e:
            raise PublishError(
                f"no PULL socket answers at {endpoint} within {ZMQ_SECONDS:g} seconds"
            ) from e
        except zmq.ZMQError as e:
            raise PublishError(f"{endpoint} is neither a URL nor a ZeroMQ endpoint: {e}") from e


if __name__ == "__main__":
    sys.exit(main())
