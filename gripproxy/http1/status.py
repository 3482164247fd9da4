"""Status codes and their reason phrases."""

from http import HTTPStatus

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
# Names that Pushpin gives and the standard library has since renamed.
_REASONS |= {
    302: b"Found",
    413: b"Request Entity Too Large",
    414: b"Request-URI Too Long",
    416: b"Requested Range Not Satisfiable",
    422: b"Unprocessable Entity",
}


def reason_phrase(code: int) -> bytes:
    """The usual reason phrase of `code`, or `Undefined Reason` as Pushpin says."""
    return _REASONS.get(code, b"Undefined Reason")
