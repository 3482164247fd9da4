"""The lines about requests, holds and publishes."""

import logging

import pytest

from gripproxy.accesslog import AccessLog
from gripproxy.http1.head import parse_request


class Client:
    def __init__(self, peer: str) -> None:
        self.peer = peer


@pytest.fixture(autouse=True)
def _listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gripproxy.access")


def line(
    caplog: pytest.LogCaptureFixture,
    *,
    fields: bytes = b"",
    target: str | None = "127.0.0.1:80",
    route: str | None = None,
    outcome: str = "code=200 5",
    last_ids: dict[str, str] | None = None,
    log_from: bool = False,
    log_user_agent: bool = False,
    peer: str = "192.0.2.1",
) -> str:
    request = parse_request(b"GET /x HTTP/1.1\r\n" + fields + b"\r\n", 64)
    access = AccessLog(log_from=log_from, log_user_agent=log_user_agent)
    access.exchange(request, "http://a/x", Client(peer), route, target, outcome, last_ids or {})
    (message,) = caplog.messages
    return message


AGENT = b"Referer: http://b/?x\r\nUser-Agent: curl/8 (x)\r\n"


def test_a_request_is_told_with_its_target_and_its_outcome(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert line(caplog) == "GET http://a/x -> 127.0.0.1:80 code=200 5"


def test_a_request_that_reached_no_target_names_none(caplog: pytest.LogCaptureFixture) -> None:
    assert line(caplog, target=None, outcome="error") == "GET http://a/x error"


def test_everything_that_may_be_told_has_its_place(caplog: pytest.LogCaptureFixture) -> None:
    assert line(
        caplog,
        fields=AGENT,
        route="r",
        last_ids={"c": "1", "d": "2"},
        log_from=True,
        log_user_agent=True,
    ) == (
        "GET http://a/x -> 127.0.0.1:80 from=192.0.2.1 ref=http://b/?x route=r code=200 5 retry"
        " ua=curl/8 (x) #c=1 #d=2"
    )


def test_the_client_s_address_and_program_are_told_only_where_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert line(caplog, fields=AGENT) == (
        "GET http://a/x -> 127.0.0.1:80 ref=http://b/?x code=200 5"
    )


def test_what_the_client_did_not_say_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    told = line(caplog, fields=b"Referer:\r\n", log_from=True, log_user_agent=True, peer="")
    assert told == "GET http://a/x -> 127.0.0.1:80 code=200 5"


def test_percent_signs_are_told_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    assert "ref=/%s%d" in line(caplog, fields=b"Referer: /%s%d\r\n")


@pytest.mark.parametrize(("retry", "end"), [(False, ""), (True, " retry")])
def test_a_hold_is_told_for_each_channel(
    caplog: pytest.LogCaptureFixture, retry: bool, end: str
) -> None:
    AccessLog(log_from=False, log_user_agent=False).subscribe("http://a/x", "c", retry=retry)
    assert caplog.messages == ["subscribe http://a/x channel=c" + end]


def test_a_publish_is_told_with_its_receivers(caplog: pytest.LogCaptureFixture) -> None:
    AccessLog(log_from=False, log_user_agent=False).publish("c", 3)
    assert caplog.messages == ["publish channel=c receivers=3"]


@pytest.mark.parametrize(
    ("level", "enabled"), [(logging.DEBUG, True), (logging.INFO, True), (logging.WARNING, False)]
)
def test_whether_anybody_reads_the_lines_is_known_beforehand(
    caplog: pytest.LogCaptureFixture, level: int, enabled: bool
) -> None:
    caplog.set_level(level, "gripproxy.access")
    assert AccessLog(log_from=False, log_user_agent=False).enabled is enabled
