"""Grip-Sig: the token by which a GRIP proxy proves itself to backends and to other proxies.

A JWT (RFC 7519) with the claims `iss` and `exp` alone. A key has one algorithm, and a token that
names another is not valid, whatever its signature.
"""

import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt import PyJWS
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from gripproxy.errors import KeyFormatError

# Seconds; what Pushpin gives a token, and backends allow for.
LIFETIME = 3600

# A key file is small; anything larger is another file named by mistake.
_FILE_BYTES_MAX = 65536

Secret = bytes | EllipticCurvePrivateKey | EllipticCurvePublicKey | RSAPrivateKey | RSAPublicKey


class _Hmac(HMACAlgorithm):
    """HMAC with any secret: operators have short ones, and PyJWT would warn at each use."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode()

    def check_key_length(self, key: bytes) -> None:
        return None


class _Rsa(RSAAlgorithm):
    """RSA without warnings on small keys, for the same reason."""

    def check_key_length(self, key: RSAPrivateKey | RSAPublicKey) -> None:
        return None


_TOKENS = PyJWS(algorithms=["ES256"])
_TOKENS.register_algorithm("HS256", _Hmac(HMACAlgorithm.SHA256))
_TOKENS.register_algorithm("RS256", _Rsa(RSAAlgorithm.SHA256))


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the only algorithm that it is used with: HS256, ES256 or RS256."""

    algorithm: str
    secret: Secret

    @property
    def can_sign(self) -> bool:
        """False for the public half of a key pair."""
        return not isinstance(self.secret, EllipticCurvePublicKey | RSAPublicKey)


def load_key(text: str, base_dir: Path) -> Key | None:
    """The key that an option names, or None where it is empty: sign nothing, trust nobody.

    Pushpin: the text itself, `base64:` and bytes, or `file:` and a path, relative to `base_dir`, of
    a PEM key (EC or RSA, private or public) or of a secret in hex. Raises KeyFormatError.
    """
    if text.startswith("base64:"):
        return _secret(_decode_base64(text[7:]))
    if text.startswith("file:"):
        return _read_file(base_dir / text[5:])
    return _secret(text.encode())


def sign(key: Key, iss: str, now: float) -> bytes:
    """A token of issuer `iss` that is valid from `now`, in seconds of the Unix clock, for LIFETIME.

    Raises KeyFormatError when the key is public.
    """
    secret = key.secret
    if isinstance(secret, EllipticCurvePublicKey | RSAPublicKey):
        raise KeyFormatError("a public key cannot sign")
    claims = json.dumps({"iss": iss, "exp": int(now) + LIFETIME}, separators=(",", ":"))
    return _TOKENS.encode(claims.encode(), secret, algorithm=key.algorithm).encode()


def verify(key: Key, token: bytes | str, now: float) -> bool:
    """Whether `token` was signed with `key` and is valid at `now`, in seconds of the Unix clock.

    Pushpin: `exp` must be a whole number in the future, `iss` is not looked at, a token for an
    audience is not for us.
    """
    secret = key.secret
    if isinstance(secret, EllipticCurvePrivateKey | RSAPrivateKey):
        secret = secret.public_key()
    if isinstance(token, str):
        token = token.encode("utf-8", "replace")
    try:
        claims = json.loads(_TOKENS.decode(token, secret, algorithms=[key.algorithm]))
    except (PyJWTError, ValueError, RecursionError):
        return False
    if not isinstance(claims, dict) or "aud" in claims:
        return False
    expires = claims.get("exp")
    return type(expires) is int and expires > now


class Signer:
    """Makes the tokens of one key and issuer, and gives each out again while it is new."""

    __slots__ = ("_iss", "_key", "_made", "_reuse", "_token")

    def __init__(self, key: Key, iss: str, reuse_seconds: float = 10.0) -> None:
        """Raises KeyFormatError when the key is public."""
        if not key.can_sign:
            raise KeyFormatError("a public key cannot sign")
        self._key = key
        self._iss = iss
        self._reuse = reuse_seconds
        self._token = b""
        self._made = float("-inf")

    def token(self, now: float) -> bytes:
        """A token made less than `reuse_seconds` before `now`, in seconds of the Unix clock."""
        # The clock may be set back.
        if not self._made <= now < self._made + self._reuse:
            self._token = sign(self._key, self._iss, now)
            self._made = now
        return self._token


def _secret(secret: bytes) -> Key | None:
    return Key("HS256", secret) if secret else None


def _decode_base64(text: str) -> bytes:
    digits = "".join(text.split()).rstrip("=")
    try:
        return binascii.a2b_base64(digits + "==="[: -len(digits) % 4], strict_mode=True)
    except ValueError as error:
        raise KeyFormatError("not base64") from error


def _read_file(path: Path) -> Key:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise KeyFormatError(f"{path}: {error}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise KeyFormatError(f"{path}: too large for a key")
    if b"-----BEGIN" in data:
        return _parse_pem(data, path)
    try:
        secret = bytes.fromhex(data.decode("ascii"))
    except ValueError as error:
        raise KeyFormatError(f"{path}: neither PEM nor hex") from error
    if not secret:
        raise KeyFormatError(f"{path}: empty")
    return Key("HS256", secret)


def _parse_pem(data: bytes, path: Path) -> Key:
    load = load_pem_public_key if b"PUBLIC KEY-----" in data else _load_private
    try:
        secret = load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFormatError(f"{path}: not a key that can be read: {error}") from error
    if isinstance(secret, RSAPrivateKey | RSAPublicKey):
        return Key("RS256", secret)
    if isinstance(secret, EllipticCurvePrivateKey | EllipticCurvePublicKey):
        if not isinstance(secret.curve, SECP256R1):
            raise KeyFormatError(f"{path}: the curve of an EC key must be P-256")
        return Key("ES256", secret)
    raise KeyFormatError(f"{path}: the key must be EC or RSA")


def _load_private(data: bytes) -> object:
    return load_pem_private_key(data, password=None)
