"""What the publish port answers, byte for byte.

Each case is one connection: what is sent, and all that comes back until the server closes it;
`pushpin` is what Pushpin 1.36 sends where that differs. So the table can be played to either.
"""

from typing import NamedTuple


class Case(NamedTuple):
    name: str
    request: bytes
    answer: bytes
    pushpin: bytes | None = None  # None: the same


def reply(
    code: str,
    body: bytes,
    *,
    version: str = "1.1",
    content_type: str = "text/plain",
    fields: str = "",
    close: bool = True,
) -> bytes:
    """An answer in the order of fields that Pushpin uses."""
    connection = "Connection: close\r\n" if close else ""
    head = (
        f"HTTP/{version} {code}\r\n{fields}Content-Type: {content_type}\r\n"
        f"{connection}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def request(
    method: str,
    target: str,
    body: bytes | None = None,
    *,
    fields: str = "Connection: close\r\n",
    version: str = "1.1",
    length: str | None = None,
) -> bytes:
    """A request; `length` overrides the Content-Length of the body."""
    if length is None and body is not None:
        length = str(len(body))
    measured = "" if length is None else f"Content-Length: {length}\r\n"
    head = f"{method} {target} HTTP/{version}\r\nHost: proxy\r\n{measured}{fields}\r\n"
    return head.encode() + (body or b"")


ITEM = b'{"items":[{"channel":"c","formats":{"http-stream":{"content":"x"}}}]}'
TEXT = b"Published\n"
JSON = b'{"message":"Published"}\n'
PUBLISHED = reply("200 OK", TEXT)
PUBLISHED_JSON = reply("200 OK", JSON, content_type="application/json")
ROOT = reply("200 OK", b"Pushpin API\n")
NOT_FOUND = reply("404 Not Found", b"Not Found\n")
NOT_ACCEPTABLE = reply(
    "406 Not Acceptable",
    b"Not Acceptable. Supported formats are text/plain and application/json.\n",
)
LENGTH_REQUIRED = reply("411 Length Required", b"Request requires Content-Length.\n")


def bad(line: str, **more: str) -> bytes:
    return reply("400 Bad Request", line.encode() + b"\n", **more)  # type: ignore[arg-type]


def wrong_method(method: str) -> bytes:
    body = f"Method not allowed: {method}.\n".encode()
    return reply("405 Method Not Allowed", body, fields="Allow: POST\r\n")


def accepting(*types: str) -> bytes:
    fields = "".join(f"Accept: {value}\r\n" for value in types)
    return request("POST", "/publish", ITEM, fields=fields + "Connection: close\r\n")


MALFORMED = bad("Failed to parse request header.")
BAD_LENGTH = bad("Bad Content-Length.")
TOO_LARGE = bad("Request body too large.")
HEADER_TOO_LARGE = bad("Request header too large.")
EXCEEDED = bad("Request body exceeded Content-Length.")
NOT_JSON = bad("Body is not valid JSON.")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"Connection: close\r\n"


def head_of(size: int) -> bytes:
    """A request whose head has `size` bytes."""
    start = b"GET / HTTP/1.1\r\n" + CLOSE + b"A: "
    return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"


FRAMING = [
    Case("a head of the greatest size", head_of(10_000), ROOT),
    Case("a head that is too large", head_of(10_001), HEADER_TOO_LARGE),
    Case("a head that does not end", head_of(10_004)[:10_000], HEADER_TOO_LARGE),
    Case("one word", b"GET\r\n\r\n", MALFORMED),
    Case("no version", b"GET /\r\n\r\n", MALFORMED),
    Case("no method", b" / HTTP/1.1\r\n\r\n", MALFORMED),
    Case("nothing", b"\r\n\r\n", MALFORMED),
    Case("an empty line first", b"\r\nGET / HTTP/1.1\r\n\r\n", MALFORMED),
    Case("POST without length", request("POST", "/publish"), LENGTH_REQUIRED),
    Case("PUT without length", request("PUT", "/"), LENGTH_REQUIRED),
    Case(
        "chunked POST",
        request("POST", "/publish", fields="Transfer-Encoding: chunked\r\n"),
        LENGTH_REQUIRED,
    ),
    Case(
        "GET with Transfer-Encoding",
        request("GET", "/", fields="Transfer-Encoding: chunked\r\n"),
        LENGTH_REQUIRED,
    ),
    Case(
        "a missing length in 1.0",
        request("POST", "/publish", version="1.0"),
        reply("411 Length Required", b"Request requires Content-Length.\n", version="1.0"),
    ),
    Case("a length in words", request("POST", "/publish", length="x"), BAD_LENGTH),
    Case("an empty length", request("POST", "/publish", length=""), BAD_LENGTH),
    Case("a list of lengths", request("POST", "/recover", length="0, 0"), BAD_LENGTH),
    Case("a length beyond 31 bits", request("POST", "/publish", length="2147483648"), BAD_LENGTH),
    Case(
        "a length with zeros",
        request("POST", "/recover", length="0" * 5000),
        reply("200 OK", b"Updated\n"),
    ),
    Case("a body that is too large", request("POST", "/publish", length="1000001"), TOO_LARGE),
    Case("a large length for GET", request("GET", "/", length="1000001"), TOO_LARGE),
    Case(
        "more body than length",
        request("POST", "/publish", ITEM + b"}", length=str(len(ITEM))),
        EXCEEDED,
    ),
    Case(
        "more body than length, kept alive",
        request("POST", "/publish", ITEM + b"}", length=str(len(ITEM)), fields=""),
        EXCEEDED,
    ),
    Case("close in another case", request("GET", "/", fields="Connection: TE, Close\r\n"), ROOT),
    Case("GET with a body", request("GET", "/", b"ab"), ROOT),
    Case("GET with bytes after it", request("GET", "/") + b"abc", ROOT),
    Case(
        "Expect",
        request("POST", "/publish", ITEM, fields="Expect: 100-continue\r\nConnection: close\r\n"),
        CONTINUE + PUBLISHED,
    ),
    Case(
        "Expect in 1.0",
        request("POST", "/publish", ITEM, fields="Expect: 100-continue\r\n", version="1.0"),
        b"HTTP/1.0 100 Continue\r\n\r\n" + reply("200 OK", TEXT, version="1.0"),
    ),
    Case(
        "Expect with a body that is too large",
        request("POST", "/publish", length="1000001", fields="Expect: 100-continue\r\n"),
        TOO_LARGE,
    ),
    Case(
        "Expect without a body",
        request("GET", "/", fields="Expect: 100-continue\r\nConnection: close\r\n"),
        ROOT,
    ),
    Case(
        "an unknown expectation",
        request("POST", "/publish", ITEM, fields="Expect: wonders\r\nConnection: close\r\n"),
        PUBLISHED,
    ),
]

ACCEPT = [
    Case("text", accepting("text/plain"), PUBLISHED),
    Case("any text", accepting("text/*"), PUBLISHED),
    Case("anything", accepting("*/*"), PUBLISHED),
    Case("a star", accepting("*"), PUBLISHED),
    Case("JSON", accepting("application/json"), PUBLISHED_JSON),
    Case("any application", accepting("application/*"), PUBLISHED_JSON),
    Case("the last wins", accepting("application/json, text/plain;q=0.1"), PUBLISHED),
    Case(
        "the last of several fields wins", accepting("text/plain", "application/*"), PUBLISHED_JSON
    ),
    Case("unknown ones do not count", accepting("application/json, text/html"), PUBLISHED_JSON),
    Case("a space before parameters", accepting("application/json ;q=1"), PUBLISHED_JSON),
    Case("empty elements", accepting(",application/json,"), PUBLISHED_JSON),
    Case("nothing acceptable", accepting("text/html"), NOT_ACCEPTABLE),
    Case("an empty field", accepting(""), NOT_ACCEPTABLE),
    Case("another case", accepting("Application/JSON"), NOT_ACCEPTABLE),
    Case("commas in quotes", accepting('text/html;x="a,text/plain"'), NOT_ACCEPTABLE),
    Case("an escaped quote", accepting('application/json;x="a\\",text/plain"'), PUBLISHED_JSON),
    Case("quotes that do not end", accepting('application/json;x="a'), NOT_ACCEPTABLE),
    Case("a quoted type", accepting('"application/json"'), NOT_ACCEPTABLE),
    Case(
        "before the path is looked at",
        request("GET", "/nothing", fields="Accept: text/html\r\nConnection: close\r\n"),
        NOT_ACCEPTABLE,
    ),
    Case(
        "errors are text",
        request("GET", "/nothing", fields="Accept: application/json\r\nConnection: close\r\n"),
        NOT_FOUND,
    ),
]

PATHS = [
    Case("the root", request("GET", "/"), ROOT),
    Case("POST to the root", request("POST", "/", b""), ROOT),
    Case("HEAD", request("HEAD", "/"), ROOT),
    Case(
        "HTTP/1.0",
        request("GET", "/", version="1.0"),
        reply("200 OK", b"Pushpin API\n", version="1.0"),
    ),
    Case("two slashes", request("GET", "//"), ROOT),
    Case("an unknown path", request("GET", "/nothing"), NOT_FOUND),
    Case("a query", request("POST", "/publish/?a=1", ITEM), NOT_FOUND),
    Case("two trailing slashes", request("POST", "/publish//", ITEM), NOT_FOUND),
    Case("absolute form", request("POST", "http://proxy/publish", ITEM), NOT_FOUND),
    Case("bytes that are not ASCII", request("GET", "/é"), NOT_FOUND),
    Case("GET /publish", request("GET", "/publish/"), wrong_method("GET")),
    Case("HEAD /publish", request("HEAD", "/publish"), wrong_method("HEAD")),
    Case("GET /recover", request("GET", "/recover"), wrong_method("GET")),
    Case("a method of its own", request("BREW", "/publish", ITEM), wrong_method("BREW")),
    Case("a method in lower case", request("post", "/publish", ITEM), wrong_method("post")),
    Case("publish", request("POST", "/publish", ITEM), PUBLISHED),
    Case("publish with a slash", request("POST", "/publish/", ITEM), PUBLISHED),
    Case(
        "publish in 1.0",
        request("POST", "/publish", ITEM, version="1.0"),
        reply("200 OK", TEXT, version="1.0"),
    ),
    Case("publish nothing", request("POST", "/publish", b'{"items":[]}'), PUBLISHED),
    Case("recover", request("POST", "/recover/", b""), reply("200 OK", b"Updated\n")),
    Case(
        "recover in JSON",
        request(
            "POST", "/recover", b"", fields="Accept: application/json\r\nConnection: close\r\n"
        ),
        reply("200 OK", b'{"message":"Updated"}\n', content_type="application/json"),
    ),
]


def publishing(body: bytes) -> bytes:
    return request("POST", "/publish", body)


BODIES = [
    Case("an empty body", publishing(b""), NOT_JSON),
    Case("half a body", publishing(b"{"), NOT_JSON),
    Case("a number", publishing(b"3"), NOT_JSON),
    Case("an array", publishing(b"[]"), bad("Invalid format.")),
    Case(
        "no items",
        publishing(b"{}"),
        bad("Invalid format: object does not contain 'items'"),
    ),
    Case(
        "items of another type",
        publishing(b'{"items":{}}'),
        bad("Invalid format: object contains 'items' with wrong type"),
    ),
    Case(
        "an item of another type",
        publishing(b'{"items":[1]}'),
        bad("Invalid format: publish item object is not an object"),
    ),
    Case(
        "no channel",
        publishing(b'{"items":[{"formats":{}}]}'),
        bad("Invalid format: publish item object does not contain 'channel'"),
    ),
    Case(
        "one bad item among good ones",
        publishing(ITEM[:-2] + b',{"channel":"c","formats":{}}]}'),
        bad("Invalid format: no formats specified"),
    ),
    Case(
        "an unknown action",
        publishing(b'{"items":[{"channel":"c","formats":{"http-stream":{"action":"x"}}}]}'),
        bad("Invalid format: "),
    ),
]

# Where the answer is meant to differ from Pushpin's.
STRICTER = [
    Case(
        "both lengths",
        request("POST", "/publish", ITEM, fields="Transfer-Encoding: chunked\r\n"),
        MALFORMED,
        PUBLISHED,
    ),
    Case(
        "two lengths",
        request("POST", "/publish", ITEM, fields="Content-Length: 3\r\n"),
        MALFORMED,
        PUBLISHED,
    ),
    Case(
        "a signed length",
        request("POST", "/recover", length="+0"),
        BAD_LENGTH,
        reply("200 OK", b"Updated\n"),
    ),
    Case("a negative length", request("POST", "/publish", length="-5"), BAD_LENGTH, EXCEEDED),
    Case("bare LF", b"GET / HTTP/1.1\n\n", MALFORMED, ROOT),
    Case("one bare LF", b"GET / HTTP/1.1\nHost: x\r\n\r\n", MALFORMED, ROOT),
    Case("a folded field", b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", MALFORMED, ROOT),
    Case("a field without colon", b"GET / HTTP/1.1\r\nfoo\r\n\r\n", MALFORMED, ROOT),
    Case(
        "a space before the colon",
        b"POST /publish HTTP/1.1\r\nContent-Length : 3\r\n\r\nabc",
        MALFORMED,
        LENGTH_REQUIRED,
    ),
    Case("a bare CR in a field", b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", MALFORMED, ROOT),
    Case("NUL in a field", b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", MALFORMED, ROOT),
    Case("HTTP/2.0", b"GET / HTTP/2.0\r\n\r\n", MALFORMED, ROOT),
    Case("no protocol's name", b"GET / FOO\r\n\r\n", MALFORMED, ROOT),
    Case("an empty target", b"GET  HTTP/1.1\r\n\r\n", MALFORMED, NOT_FOUND),
    Case(
        "Expect in another case",
        request("POST", "/publish", ITEM, fields="Expect: 100-Continue\r\nConnection: close\r\n"),
        CONTINUE + PUBLISHED,
        PUBLISHED,
    ),
    Case(
        "a kept connection",
        request("GET", "/", fields="Connection: TE, keep-alive\r\n") + request("GET", "/nothing"),
        reply("200 OK", b"Pushpin API\n", close=False) + NOT_FOUND,
        ROOT,
    ),
    Case(
        "HEAD on a kept connection",
        request("HEAD", "/", fields="") + request("GET", "/"),
        reply("200 OK", b"Pushpin API\n", close=False).removesuffix(b"Pushpin API\n") + ROOT,
        ROOT,
    ),
]

CASES = [*FRAMING, *ACCEPT, *PATHS, *BODIES, *STRICTER]
