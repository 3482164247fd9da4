"""Certificates for TLS clients: which of the files in a directory each client is shown."""

import logging
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from gripproxy.clients.tls import Certificates
from tests.support.certs import Authority, Pair, client_context

PORT = 8443


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("test CA")


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> list[Pair]:
    """Certificates that differ in their serials only; any name may use any."""
    return [authority.issue("a.example", "*.example") for _ in range(3)]


def put(directory: Path, stem: str, pair: Pair, *, changed: int = 0) -> None:
    """Write the two files; `changed` counts the times, since two writes may share a timestamp."""
    for end, content in (("crt", pair.cert), ("key", pair.key)):
        path = directory / f"{stem}.{end}"
        path.write_bytes(content)
        os.utime(path, (1_000_000 + changed, 1_000_000 + changed))


def shown(certificates: Certificates, name: str | None) -> int:
    """The serial of what a client is shown that asks for `name`.

    Raises ssl.SSLError with the alert that the client gets.
    """
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificates.context.wrap_bio(server_in, server_out, server_side=True)
    client = client_context().wrap_bio(server_out, server_in, server_hostname=name)
    pending = [client, server]
    while pending:
        for side in list(pending):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                if side is client:
                    raise
                # The client is told why.
            pending.remove(side)
    der = client.getpeercert(binary_form=True)
    assert der is not None
    return serial(der)


def serial(der: bytes) -> int:
    return x509.load_der_x509_certificate(der).serial_number


def test_a_name_has_its_own_certificate(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, "a.example", pairs[0])
    put(tmp_path, "b.example", pairs[1])
    certificates = Certificates(tmp_path, PORT)
    assert shown(certificates, "a.example") == pairs[0].serial
    assert shown(certificates, "b.example") == pairs[1].serial
    assert shown(certificates, "a.example") == pairs[0].serial


def test_names_are_found_in_any_case(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, "a.example", pairs[0])
    assert shown(Certificates(tmp_path, PORT), "A.Example") == pairs[0].serial


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("x.b.example", 0),  # its own
        ("y.b.example", 1),  # of its domain
        ("z.y.b.example", 2),  # a wildcard stands for one label
        ("b.example", 2),
        ("other.test", 2),
        (None, 2),
    ],
)
def test_own_name_then_domain_then_default(
    tmp_path: Path, pairs: list[Pair], name: str | None, number: int
) -> None:
    put(tmp_path, "x.b.example", pairs[0])
    put(tmp_path, "_.b.example", pairs[1])
    put(tmp_path, f"default_{PORT}", pairs[2])
    assert shown(Certificates(tmp_path, PORT), name) == pairs[number].serial


def test_the_default_is_of_one_port(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, "default_1", pairs[0])
    put(tmp_path, "default_2", pairs[1])
    assert shown(Certificates(tmp_path, 1), "a.example") == pairs[0].serial
    assert shown(Certificates(tmp_path, 2), "a.example") == pairs[1].serial


@pytest.mark.parametrize("name", ["a.example", None])
def test_without_a_certificate_there_is_no_handshake(
    tmp_path: Path, pairs: list[Pair], name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "b.example", pairs[0])
    with (
        caplog.at_level(logging.INFO, "gripproxy.clients"),
        pytest.raises(ssl.SSLError, match="unrecognized name"),
    ):
        shown(Certificates(tmp_path, PORT), name)
    assert "no certificate for " in caplog.text


@pytest.mark.parametrize("missing", ["crt", "key"])
def test_half_a_pair_is_no_certificate(tmp_path: Path, pairs: list[Pair], missing: str) -> None:
    put(tmp_path, "a.example", pairs[0])
    put(tmp_path, f"default_{PORT}", pairs[1])
    (tmp_path / f"a.example.{missing}").unlink()
    assert shown(Certificates(tmp_path, PORT), "a.example") == pairs[1].serial


def test_a_changed_file_is_read_again(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, "a.example", pairs[0])
    certificates = Certificates(tmp_path, PORT)
    assert shown(certificates, "a.example") == pairs[0].serial
    put(tmp_path, "a.example", pairs[1], changed=1)
    assert shown(certificates, "a.example") == pairs[1].serial


def test_an_older_file_put_in_its_place_is_read_too(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, "a.example", pairs[0], changed=5)
    certificates = Certificates(tmp_path, PORT)
    shown(certificates, "a.example")
    put(tmp_path, "a.example", pairs[1], changed=3)
    assert shown(certificates, "a.example") == pairs[1].serial


def test_a_new_file_is_found(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, f"default_{PORT}", pairs[0])
    certificates = Certificates(tmp_path, PORT)
    assert shown(certificates, "a.example") == pairs[0].serial
    put(tmp_path, "a.example", pairs[1])
    assert shown(certificates, "a.example") == pairs[1].serial


def test_a_removed_file_is_forgotten(tmp_path: Path, pairs: list[Pair]) -> None:
    put(tmp_path, "a.example", pairs[0])
    certificates = Certificates(tmp_path, PORT)
    shown(certificates, "a.example")
    (tmp_path / "a.example.crt").unlink()
    with pytest.raises(ssl.SSLError):
        shown(certificates, "a.example")


def test_while_files_are_being_replaced_the_old_pair_is_shown(
    tmp_path: Path, pairs: list[Pair], caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "a.example", pairs[0])
    certificates = Certificates(tmp_path, PORT)
    shown(certificates, "a.example")
    put(tmp_path, "a.example", Pair(pairs[1].cert, pairs[0].key, 0), changed=1)
    with caplog.at_level(logging.WARNING, "gripproxy.clients"):
        assert shown(certificates, "a.example") == pairs[0].serial
    assert f"cannot load {tmp_path}/a.example.crt: " in caplog.text
    put(tmp_path, "a.example", pairs[1], changed=2)
    assert shown(certificates, "a.example") == pairs[1].serial


@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_file_that_is_no_certificate_counts_as_absent(
    tmp_path: Path, pairs: list[Pair], content: bytes
) -> None:
    put(tmp_path, "a.example", Pair(content, pairs[0].key, 0))
    put(tmp_path, f"default_{PORT}", pairs[1])
    assert shown(Certificates(tmp_path, PORT), "a.example") == pairs[1].serial


def test_no_name_leads_out_of_the_directory(tmp_path: Path, pairs: list[Pair]) -> None:
    inside = tmp_path / "certs"
    (inside / "sub").mkdir(parents=True)
    put(inside / "sub", "a", pairs[0])
    put(inside, f"default_{PORT}", pairs[1])
    certificates = Certificates(inside, PORT)
    for name in ("sub/a", "SUB/A", "a b"):
        assert shown(certificates, name) == pairs[1].serial


def test_a_client_that_checks_is_content(
    tmp_path: Path, authority: Authority, pairs: list[Pair]
) -> None:
    put(tmp_path, "a.example", pairs[0])
    server_in, server_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = Certificates(tmp_path, PORT).context
    server = context.wrap_bio(server_in, server_out, server_side=True)
    client = client_context(authority).wrap_bio(server_out, server_in, server_hostname="a.example")
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    client.do_handshake()
    server.do_handshake()
    assert client.version() in ("TLSv1.2", "TLSv1.3")
