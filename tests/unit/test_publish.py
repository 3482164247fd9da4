"""gripproxy-publish, against a real HTTP server and a real ZeroMQ PULL socket."""

import base64
import http.server
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
import zmq

from gripproxy import __version__, publish
from gripproxy.grip import tnetstring
from tests.support.certs import Authority, server_context
from tests.support.proxy import ROOT, free_ports

KEY = b"a-key-of-at-least-thirty-two-bytes"


@dataclass
class Recorder:
    """An HTTP publish port that records requests and answers as it is told."""

    port: int = 0
    answer: tuple[int, bytes] = (200, b"Published\n")
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def item(self) -> dict[str, Any]:
        """The one item of the one request."""
        (body,) = self.bodies
        (item,) = json.loads(body)["items"]
        return item  # type: ignore[no-any-return]


def _handler(recorder: Recorder) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            recorder.paths.append(self.path)
            recorder.headers.append(dict(self.headers))
            recorder.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = recorder.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _serve(recorder: Recorder, context: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    with http.server.HTTPServer(("127.0.0.1", 0), _handler(recorder)) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        recorder.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield recorder
        server.shutdown()
        thread.join()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    yield from _serve(Recorder())


@pytest.fixture
def tls_recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    ca = Authority("publish")
    (tmp_path / "ca.pem").write_bytes(ca.cert)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    yield from _serve(Recorder(), server_context(ca.issue("127.0.0.1")))


@pytest.fixture(autouse=True)
def no_grip_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRIP_URL", raising=False)


def published(*args: str) -> None:
    """Run the command; it must succeed."""
    assert publish.main(args) == 0


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run the command; it must fail. What it said after `Error: `."""
    assert publish.main(args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert err.endswith("\n")
    return err[len("Error: ") : -1]


class TestItem:
    """The item is the one that pushpin-publish makes of the same arguments."""

    def publish(self, recorder: Recorder, *args: str) -> dict[str, Any]:
        published("--spec", recorder.url, *args)
        return recorder.item

    def test_content_goes_to_all_formats_with_a_newline_for_http(self, recorder: Recorder) -> None:
        assert self.publish(recorder, "fruit", "apple") == {
            "channel": "fruit",
            "formats": {
                "http-response": {"code": 200, "body": "apple\n"},
                "http-stream": {"content": "apple\n"},
                "ws-message": {"content": "apple"},
            },
        }

    def test_no_eol_leaves_the_newline_out(self, recorder: Recorder) -> None:
        formats = self.publish(recorder, "fruit", "apple", "--no-eol")["formats"]
        assert formats["http-response"]["body"] == "apple"
        assert formats["http-stream"]["content"] == "apple"

    def test_empty_content_is_content(self, recorder: Recorder) -> None:
        formats = self.publish(recorder, "fruit", "")["formats"]
        assert formats["http-stream"]["content"] == "\n"
        assert formats["ws-message"]["content"] == ""

    def test_ids_meta_and_no_seq_are_in_the_item(self, recorder: Recorder) -> None:
        args = ["--id=2", "--prev-id=1", "--sender=me", "-M", "a=b=c", "-M", "d=", "--no-seq"]
        item = self.publish(recorder, "fruit", "apple", *args)
        del item["formats"]
        assert item == {
            "channel": "fruit",
            "id": "2",
            "prev-id": "1",
            "meta": {"sender": "me", "a": "b=c", "d": ""},
            "no-seq": True,
        }

    def test_code_and_headers_are_those_of_the_response(self, recorder: Recorder) -> None:
        args = ["--code", "404", "-H", "A: 1", "--header", "B:2:3 ", "-H", "A:"]
        assert self.publish(recorder, "fruit", "x", *args)["formats"]["http-response"] == {
            "code": 404,
            "headers": [["A", "1"], ["B", "2:3"], ["A", ""]],
            "body": "x\n",
        }

    def test_hint_needs_no_content(self, recorder: Recorder) -> None:
        assert self.publish(recorder, "fruit", "--hint")["formats"] == {
            "http-response": {"action": "hint"},
            "http-stream": {"action": "hint"},
            "ws-message": {"action": "hint"},
        }

    def test_close_closes_streams_and_websockets(self, recorder: Recorder) -> None:
        assert self.publish(recorder, "fruit", "--close", "--id", "1") == {
            "channel": "fruit",
            "id": "1",
            "formats": {"http-stream": {"action": "close"}, "ws-message": {"action": "close"}},
        }

    def test_hint_beats_close(self, recorder: Recorder) -> None:
        formats = self.publish(recorder, "fruit", "--close", "--hint")["formats"]
        assert formats["http-stream"] == {"action": "hint"}

    def test_a_patch_is_for_responses_only(self, recorder: Recorder) -> None:
        patch = [{"op": "add", "path": "/a", "value": [1.5, None, True, {"k": "v"}]}]
        assert self.publish(recorder, "fruit", json.dumps(patch), "--patch")["formats"] == {
            "http-response": {"code": 200, "body-patch": patch}
        }

    def test_a_file_is_taken_as_it_is(self, recorder: Recorder, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"two\nlines")
        formats = self.publish(recorder, "fruit", f"@{tmp_path / 'f'}")["formats"]
        assert formats["http-response"]["body"] == "two\nlines"
        assert formats["ws-message"]["content"] == "two\nlines"

    def test_content_after_two_dashes_may_start_with_a_dash(self, recorder: Recorder) -> None:
        formats = self.publish(recorder, "fruit", "--", "-x")["formats"]
        assert formats["ws-message"]["content"] == "-x"

    def test_content_may_be_any_unicode(self, recorder: Recorder) -> None:
        formats = self.publish(recorder, "fruit", "Äpfel 🍏")["formats"]
        assert formats["ws-message"]["content"] == "Äpfel 🍏"

    def test_content_that_is_not_utf8_becomes_base64(self, recorder: Recorder) -> None:
        not_utf8 = b"\xff\x00".replace(b"\x00", b"a").decode("utf-8", "surrogateescape")
        line = base64.b64encode(b"\xffa\n").decode()
        assert self.publish(recorder, "fruit", not_utf8)["formats"] == {
            "http-response": {"code": 200, "body-bin": line},
            "http-stream": {"content-bin": line},
            "ws-message": {"content-bin": base64.b64encode(b"\xffa").decode()},
        }


class TestByHttp:
    def test_posts_json_and_says_published(
        self, recorder: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        published("--spec", recorder.url, "fruit", "apple")
        assert recorder.paths == ["/publish/"]
        assert recorder.headers[0]["Content-Type"] == "application/json"
        assert "Authorization" not in recorder.headers[0]
        assert capsys.readouterr() == ("Published\n", "")

    @pytest.mark.parametrize(
        ("suffix", "path"),
        [
            ("/", "/publish/"),
            ("/a", "/a/publish/"),
            ("/a/", "/a/publish/"),
            ("/a?b=c", "/a/publish/"),
        ],
    )
    def test_a_path_is_kept_without_its_last_slash_and_query(
        self, recorder: Recorder, suffix: str, path: str
    ) -> None:
        published("--spec", recorder.url + suffix, "fruit", "apple")
        assert recorder.paths == [path]

    def test_grip_url_is_the_spec_when_none_is_given(
        self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GRIP_URL", recorder.url)
        published("fruit", "apple")
        assert recorder.item["channel"] == "fruit"

    def test_a_given_spec_beats_grip_url(
        self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GRIP_URL", "http://127.0.0.1:1")
        published("fruit", "apple", "--spec", recorder.url)
        assert recorder.paths

    def test_iss_and_key_of_the_url_become_a_signed_token(self, recorder: Recorder) -> None:
        published("--spec", f"{recorder.url}/?iss=realm&key={KEY.decode()}", "fruit", "apple")
        scheme, token = recorder.headers[0]["Authorization"].split(" ")
        claims = jwt.decode(token, KEY, algorithms=["HS256"])
        assert scheme == "Bearer"
        assert claims["iss"] == "realm"
        assert recorder.paths == ["/publish/"]

    def test_the_token_lasts_an_hour_and_its_key_may_be_short(self) -> None:
        endpoint = publish.http_endpoint("http://a/?iss=realm&key=changeme", None, None, 1000.0)
        assert endpoint.authorization is not None
        token = endpoint.authorization.removeprefix("Bearer ")
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["exp"] == 4600

    @pytest.mark.parametrize("encode", [str, urllib.parse.quote_plus])
    def test_a_base64_key_may_be_percent_encoded_or_not(self, encode: Callable[[str], str]) -> None:
        secret = b"\xfb\xef\xbe\xff" * 8
        key = encode(base64.b64encode(secret).decode())
        spec = f"http://a/?iss=realm&key=base64:{key}"
        endpoint = publish.http_endpoint(spec, None, None, time.time())
        assert endpoint.authorization is not None
        token = endpoint.authorization.removeprefix("Bearer ")
        assert jwt.decode(token, secret, algorithms=["HS256"])["iss"] == "realm"

    def test_a_key_alone_is_the_bearer_token(self, recorder: Recorder) -> None:
        published("--spec", f"{recorder.url}?key=secret", "fruit", "apple")
        assert recorder.headers[0]["Authorization"] == "Bearer secret"

    def test_user_is_sent_by_basic_authentication_over_https(self, tls_recorder: Recorder) -> None:
        spec = tls_recorder.url.replace("http:", "https:")
        published("--spec", spec, "-u", "me:päss", "fruit", "apple")
        expected = base64.b64encode("me:päss".encode()).decode()
        assert tls_recorder.headers[0]["Authorization"] == f"Basic {expected}"

    def test_bearer_is_sent_over_https_and_beats_the_url(self, tls_recorder: Recorder) -> None:
        spec = tls_recorder.url.replace("http:", "https:") + "?iss=realm&key=changeme"
        published("--spec", spec, "--bearer", "abc", "fruit", "apple")
        assert tls_recorder.headers[0]["Authorization"] == "Bearer abc"

    def test_a_certificate_that_nobody_vouches_for_is_refused(
        self,
        tls_recorder: Recorder,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        spec = tls_recorder.url.replace("http:", "https:")
        assert "certificate" in refused(capsys, "--spec", spec, "fruit", "apple").lower()
        assert tls_recorder.bodies == []

    @pytest.mark.parametrize("option", ["--user=a:b", "--bearer=a"])
    @pytest.mark.parametrize("spec", ["http://127.0.0.1:1", "tcp://127.0.0.1:1"])
    def test_credentials_are_never_sent_in_the_clear(
        self, option: str, spec: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refused(capsys, "--spec", spec, option, "fruit", "apple")
        assert message == "Authentication requires https"

    def test_a_refusal_is_shown_trimmed(
        self, recorder: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorder.answer = (400, b"  Invalid format.\n\n")
        assert refused(capsys, "--spec", recorder.url, "fruit", "apple") == "Invalid format."

    def test_a_refusal_without_words_is_named_by_its_status(
        self, recorder: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorder.answer = (500, b"")
        message = refused(capsys, "--spec", recorder.url, "fruit", "apple")
        assert message == f"{recorder.url}/publish/ answered 500 Internal Server Error"

    def test_only_200_is_success(
        self, recorder: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recorder.answer = (202, b"later")
        assert refused(capsys, "--spec", recorder.url, "fruit", "apple") == "later"

    def test_an_unreachable_port_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        (port,) = free_ports(1)
        message = refused(capsys, "--spec", f"http://127.0.0.1:{port}", "fruit", "apple")
        expected = f"cannot publish to http://127.0.0.1:{port}/publish/: Connection refused"
        assert message == expected

    @pytest.mark.parametrize(
        ("spec", "reason"),
        [
            ("http://", "no host"),
            ("http://a:b", "Port could not be cast"),
            ("http://[::1", "Invalid IPv6 URL"),
            ("http://me:secret@a", "--user"),
            ("http://a/?iss=realm", "no key="),
            ("http://a/?iss=realm&key=base64:", "key= is empty"),
            ("http://a/?iss=realm&key=file:/none", "/none"),
            ("http://a/?iss=realm&key=\udcff", "UTF-8"),
            ("http://a b/", "cannot publish"),
            ("http://127.0.0.1:1/ä", "cannot publish"),
        ],
    )
    def test_a_url_that_cannot_be_used_is_refused(
        self, spec: str, reason: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert reason in refused(capsys, "--spec", spec, "fruit", "apple")

    def test_a_channel_that_is_not_utf8_has_no_place_in_json(
        self, recorder: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        channel = b"\xff".decode("utf-8", "surrogateescape")
        assert "UTF-8" in refused(capsys, "--spec", recorder.url, channel, "apple")
        assert recorder.bodies == []


class TestByZeroMq:
    @pytest.fixture
    def pull(self) -> Iterator["zmq.Socket[bytes]"]:
        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.rcvtimeo = 5000
            socket.bind("tcp://127.0.0.1:*")
            yield socket

    def receive(self, pull: "zmq.Socket[bytes]", *args: str) -> bytes:
        endpoint = pull.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        published("--spec", endpoint.decode().rstrip("\0"), *args)
        (frame,) = pull.recv_multipart()
        return frame

    def receive_item(self, pull: "zmq.Socket[bytes]", *args: str) -> Any:
        return tnetstring.loads(self.receive(pull, *args))

    def test_sends_one_frame_of_bare_tnetstring(
        self, pull: "zmq.Socket[bytes]", capsys: pytest.CaptureFixture[str]
    ) -> None:
        frame = self.receive(pull, "fruit", "apple", "--id", "1", "--no-seq")
        assert frame[:1].isdigit()
        assert tnetstring.loads(frame) == {
            b"channel": b"fruit",
            b"id": b"1",
            b"no-seq": True,
            b"formats": {
                b"http-response": {b"code": 200, b"body": b"apple\n"},
                b"http-stream": {b"content": b"apple\n"},
                b"ws-message": {b"content": b"apple"},
            },
        }
        assert capsys.readouterr() == ("Published\n", "")

    def test_bytes_go_as_they_are_and_are_binary_for_websockets(
        self, pull: "zmq.Socket[bytes]", tmp_path: Path
    ) -> None:
        (tmp_path / "f").write_bytes(b"\xff\x00")
        item = self.receive_item(pull, "fruit", f"@{tmp_path / 'f'}")
        assert item[b"formats"] == {
            b"http-response": {b"code": 200, b"body": b"\xff\x00"},
            b"http-stream": {b"content": b"\xff\x00"},
            b"ws-message": {b"content-bin": b"\xff\x00"},
        }

    def test_a_channel_need_not_be_utf8(self, pull: "zmq.Socket[bytes]") -> None:
        item = self.receive_item(pull, b"\xff".decode("utf-8", "surrogateescape"), "x")
        assert item[b"channel"] == b"\xff"

    def test_a_patch_keeps_its_types(self, pull: "zmq.Socket[bytes]") -> None:
        patch = '[{"op": "add", "path": "/a", "value": [1.5, null, true, -3]}]'
        item = self.receive_item(pull, "fruit", patch, "--patch")
        (operation,) = item[b"formats"][b"http-response"][b"body-patch"]
        assert operation[b"value"] == [1.5, None, True, -3]

    def test_works_over_a_unix_socket(self, pull: "zmq.Socket[bytes]", tmp_path: Path) -> None:
        pull.bind(f"ipc://{tmp_path}/in")
        assert b"apple" in self.receive(pull, "fruit", "apple")

    def test_nobody_there_is_an_error_and_not_a_hang(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(publish, "ZMQ_SECONDS", 0.1)
        (port,) = free_ports(1)
        message = refused(capsys, "--spec", f"tcp://127.0.0.1:{port}", "fruit", "apple")
        assert message == f"no PULL socket answers at tcp://127.0.0.1:{port} within 0.1 seconds"

    @pytest.mark.parametrize("spec", ["foo", "tcp://", "tcp://127.0.0.1", "nope://a"])
    def test_an_endpoint_that_is_none_is_named(
        self, spec: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refused(capsys, "--spec", spec, "fruit", "apple")
        assert message.startswith(f"{spec} is neither a URL nor a ZeroMQ endpoint")


class TestArguments:
    @pytest.mark.parametrize(
        "args",
        [
            ["--no-eol", "fruit", "apple"],
            ["fruit", "--no-eol", "apple"],
            ["fruit", "apple", "--no-eol"],
            ["fruit", "--no-eol", "--", "apple"],
        ],
    )
    def test_options_may_stand_anywhere(self, args: list[str], recorder: Recorder) -> None:
        published("--spec", recorder.url, *args)
        assert recorder.item["channel"] == "fruit"
        assert recorder.item["formats"]["http-stream"] == {"content": "apple"}

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ([], "must specify content"),
            (["x", "--code", "1000"], "code must be an integer between 0 and 999"),
            (["x", "--code", "-1"], "code must be an integer between 0 and 999"),
            (["x", "--code", "two"], "code must be an integer between 0 and 999"),
            (["x", "-H", "bad"], 'header must be in the form "name: value"'),
            (["x", "-M", "bad"], 'meta must be in the form "name=value"'),
            (["{}", "--patch"], "patch content must be a JSON array"),
        ],
    )
    def test_a_wrong_value_is_explained_and_nothing_sent(
        self,
        args: list[str],
        message: str,
        recorder: Recorder,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert refused(capsys, "--spec", recorder.url, "fruit", *args) == message
        assert recorder.bodies == []

    def test_a_patch_that_is_not_json_is_explained(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert refused(capsys, "fruit", "{", "--patch").startswith("patch is not valid JSON: ")

    def test_a_file_that_cannot_be_read_is_named(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        name = str(tmp_path / "none")
        message = refused(capsys, "fruit", f"@{name}")
        assert message == f"cannot read file {name}: No such file or directory"

    @pytest.mark.parametrize(
        "args", [[], ["fruit", "x", "--nope"], ["fruit", "-x"], ["a", "b", "-u", "c:d", "-B", "e"]]
    )
    def test_arguments_that_do_not_parse_exit_2(self, args: list[str]) -> None:
        with pytest.raises(SystemExit) as e:
            publish.main(args)
        assert e.value.code == 2

    @pytest.mark.parametrize("option", ["-V", "--version"])
    def test_version_names_command_and_version(
        self, option: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as e:
            publish.main([option])
        assert e.value.code == 0
        assert capsys.readouterr().out == f"gripproxy-publish {__version__}\n"


def test_the_process_exits_with_the_result(recorder: Recorder) -> None:
    command = [sys.executable, "-m", "gripproxy.publish", "--spec", recorder.url, "fruit"]
    done = subprocess.run(
        [*command, b"\xff"], cwd=ROOT, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Published\n", b"")
    assert recorder.item["formats"]["ws-message"] == {"content-bin": "/w=="}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, b"Error: must specify content\n")
