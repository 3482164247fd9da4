"""Reason phrases."""

import pytest

from gripproxy.http1.status import reason_phrase


@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        (200, b"OK"),
        (302, b"Found"),
        (404, b"Not Found"),
        (413, b"Request Entity Too Large"),
        (414, b"Request-URI Too Long"),
        (416, b"Requested Range Not Satisfiable"),
        (422, b"Unprocessable Entity"),
        (502, b"Bad Gateway"),
    ],
)
def test_codes_have_the_names_that_pushpin_gives_them(code: int, phrase: bytes) -> None:
    assert reason_phrase(code) == phrase


@pytest.mark.parametrize("code", [0, 299, 999])
def test_other_codes_have_an_undefined_reason(code: int) -> None:
    assert reason_phrase(code) == b"Undefined Reason"
