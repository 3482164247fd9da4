"""Certificates and signing keys, made when a test asks for them.

In short:

    ca = Authority("test CA")
    pair = ca.issue("a.example", "*.b.example")      # pair.cert, pair.key: PEM bytes
    server_context(pair) / client_context(ca)         # ssl contexts for backends and clients
    ec_key(), rsa_key()                               # (private PEM, public PEM) for Grip-Sig
"""

import datetime
import functools
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    """A certificate and its private key, both PEM; the serial tells two of one name apart."""

    cert: bytes
    key: bytes
    serial: int


class KeyPair(NamedTuple):
    private: bytes
    public: bytes


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pair(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> KeyPair:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return KeyPair(_pem(key), public)


@functools.cache
def ec_key() -> KeyPair:
    """A P-256 key, for ES256."""
    return _pair(ec.generate_private_key(ec.SECP256R1()))


@functools.cache
def rsa_key() -> KeyPair:
    """A 2048-bit RSA key, for RS256."""
    return _pair(rsa.generate_private_key(public_exponent=65537, key_size=2048))


class Authority:
    """A certificate authority that only these tests trust."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.cert = built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 7 * DAY)
        )

    def issue(self, name: str, *more: str) -> Pair:
        """A certificate for host names and IP addresses; `name` is its common name too."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = []
        for n in (name, *more):
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(n)))
            except ValueError:
                names.append(x509.DNSName(n))
        cert = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(cert.public_bytes(serialization.Encoding.PEM), _pem(key), cert.serial_number)


def server_context(pair: Pair, *, client_ca: Authority | None = None) -> ssl.SSLContext:
    """For a TLS backend; with `client_ca` it insists on a client certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, pair)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.cert.decode())
    return context


def client_context(ca: Authority | None = None) -> ssl.SSLContext:
    """For a TLS client that trusts `ca` alone, or takes any certificate when it is None."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=ca.cert.decode())
    return context


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    # ssl takes a certificate chain from files only
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder, "cert"), Path(folder, "key")
        cert.write_bytes(pair.cert)
        key.write_bytes(pair.key)
        context.load_cert_chain(cert, key)
