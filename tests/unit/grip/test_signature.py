"""Grip-Sig: keys, tokens, and whom to trust."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gripproxy.errors import KeyFormatError
from gripproxy.grip.signature import LIFETIME, Key, Signer, load_key, sign, verify

NOW = 1_700_000_000.5
NOWHERE = Path("nowhere")
SECRET = Key("HS256", b"short")

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def private_pem(
    key: Any,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def load_file(directory: Path, content: bytes) -> Key | None:
    (directory / "key").write_bytes(content)
    return load_key("file:key", directory)


def token(claims: object, key: bytes = b"short", algorithm: str = "HS256") -> bytes:
    """A token with any claims, made without the code under test."""
    header = {"typ": "JWT", "alg": algorithm}
    parts = [json.dumps(part).encode() for part in (header, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = jwt.get_algorithm_by_name("HS256").sign(signed, key)
    return signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")


class TestLoadKey:
    def test_text_is_the_secret(self) -> None:
        assert load_key("changeme é", NOWHERE) == Key("HS256", "changeme é".encode())

    @pytest.mark.parametrize("text", ["base64:AP8=", "base64:AP8", "base64: AP 8="])
    def test_base64_is_decoded(self, text: str) -> None:
        assert load_key(text, NOWHERE) == Key("HS256", b"\x00\xff")

    @pytest.mark.parametrize("text", ["", "base64:", "base64:=="])
    def test_an_empty_key_is_none(self, text: str) -> None:
        assert load_key(text, NOWHERE) is None

    @pytest.mark.parametrize("text", ["base64:A", "base64:A!==", "base64:é"])
    def test_what_is_not_base64_is_an_error(self, text: str) -> None:
        with pytest.raises(KeyFormatError):
            load_key(text, NOWHERE)

    def test_a_file_may_hold_a_secret_in_hex(self, tmp_path: Path) -> None:
        assert load_file(tmp_path, b"00ff\n") == Key("HS256", b"\x00\xff")

    @pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
    @pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")])
    def test_a_file_may_hold_a_private_key(
        self, tmp_path: Path, key: Any, algorithm: str, form: PrivateFormat
    ) -> None:
        loaded = load_file(tmp_path, private_pem(key, form))
        assert loaded is not None
        assert loaded.algorithm == algorithm
        assert loaded.can_sign

    @pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")])
    def test_a_file_may_hold_a_public_key(self, tmp_path: Path, key: Any, algorithm: str) -> None:
        loaded = load_file(tmp_path, b"a comment\n" + public_pem(key))
        assert loaded is not None
        assert loaded.algorithm == algorithm
        assert not loaded.can_sign

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"not hex",
            b"abc",
            b"\xff\xff",
            b"0" * 70_000,
            b"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n",
            b"-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n",
            private_pem(ec.generate_private_key(ec.SECP384R1())),
            private_pem(ed25519.Ed25519PrivateKey.generate()),
            private_pem(EC_KEY, encryption=BestAvailableEncryption(b"password")),
        ],
    )
    def test_another_file_is_an_error_that_names_it(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(KeyFormatError, match="key"):
            load_file(tmp_path, content)

    @pytest.mark.parametrize("name", ["absent", ".", "a\0b"])
    def test_so_is_one_that_cannot_be_read(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(KeyFormatError):
            load_key(f"file:{name}", tmp_path)


class TestSign:
    def test_a_token_has_an_issuer_and_an_expiry_and_nothing_else(self) -> None:
        made = sign(SECRET, "é", NOW)
        header, claims, _ = made.split(b".")
        assert json.loads(base64.urlsafe_b64decode(header + b"==")) == {
            "typ": "JWT",
            "alg": "HS256",
        }
        assert json.loads(base64.urlsafe_b64decode(claims + b"==")) == {
            "iss": "é",
            "exp": int(NOW) + LIFETIME,
        }

    @pytest.mark.parametrize(("key", "algorithm"), [(EC_KEY, "ES256"), (RSA_KEY, "RS256")])
    def test_a_public_key_verifies_what_the_private_key_signed(
        self, key: Any, algorithm: str
    ) -> None:
        private, public = Key(algorithm, key), Key(algorithm, key.public_key())
        made = sign(private, "me", NOW)
        assert verify(public, made, NOW)
        assert verify(private, made, NOW)
        with pytest.raises(KeyFormatError):
            sign(public, "me", NOW)

    def test_other_implementations_accept_it(self) -> None:
        made = sign(Key("ES256", EC_KEY), "me", 4e9)
        claims = jwt.decode(made, EC_KEY.public_key(), algorithms=["ES256"], issuer="me")
        assert claims["exp"] == 4_000_000_000 + LIFETIME


class TestVerify:
    def test_a_token_is_valid_until_it_expires(self) -> None:
        made = sign(SECRET, "me", NOW)
        assert verify(SECRET, made, NOW + LIFETIME - 1)
        assert not verify(SECRET, made, int(NOW) + LIFETIME)
        assert verify(SECRET, made.decode(), NOW)

    def test_the_issuer_does_not_matter(self) -> None:
        assert verify(SECRET, token({"exp": int(NOW) + 1}), NOW)
        assert verify(SECRET, token({"exp": int(NOW) + 1, "iss": 5, "sub": 1}), NOW)

    @pytest.mark.parametrize(
        "claims",
        [
            {},
            {"exp": NOW + 100},
            {"exp": str(int(NOW) + 100)},
            {"exp": True},
            {"exp": None},
            {"exp": int(NOW)},
            {"exp": int(NOW) + 100, "aud": "someone"},
            {"exp": int(NOW) + 100, "aud": None},
            [],
            "exp",
        ],
    )
    def test_other_claims_are_refused(self, claims: object) -> None:
        assert not verify(SECRET, token(claims), NOW)

    def test_another_secret_is_refused(self) -> None:
        assert not verify(SECRET, token({"exp": int(NOW) + 1}, b"other"), NOW)

    def test_the_key_decides_on_the_algorithm(self) -> None:
        claims = {"exp": int(NOW) + 100}
        public = Key("RS256", RSA_KEY.public_key())
        assert not verify(SECRET, token(claims, algorithm="none"), NOW)
        assert not verify(SECRET, token(claims, algorithm="HS512"), NOW)
        assert not verify(public, token(claims, public_pem(RSA_KEY)), NOW)

    def test_an_unsigned_token_is_refused(self) -> None:
        unsigned = jwt.encode({"exp": int(NOW) + 100}, "", algorithm="none")
        assert not verify(SECRET, unsigned, NOW)

    @pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "\ud800..", "{}.{}.{}"])
    def test_what_is_not_a_token_is_refused(self, text: str) -> None:
        assert not verify(SECRET, text, NOW)

    def test_claims_that_nest_too_deeply_are_refused(self) -> None:
        made = jwt.api_jws.encode(b"[" * 100_000, b"s" * 32)
        assert not verify(Key("HS256", b"s" * 32), made, NOW)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=80) | st.text("ey.JhbGciOiJIUzI1NiJ9-_", max_size=80))
    def test_any_bytes_are_refused_without_an_error(self, made: bytes | str) -> None:
        assert not verify(SECRET, made, NOW)

    @settings(max_examples=200, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["alg", "crit", "kid", "b64", "typ", "jwk"]),
            st.none() | st.booleans() | st.text(max_size=3) | st.lists(st.just("b64"), max_size=2),
        ),
        st.data(),
    )
    def test_any_header_is_refused_without_an_error(
        self, header: dict[str, object], data: st.DataObject
    ) -> None:
        parts = [json.dumps(header).encode(), data.draw(st.sampled_from([b"", b"{}", b"\xff"]))]
        made = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        assert not verify(SECRET, made + b".AAAA", NOW)

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_a_token_that_was_tampered_with_is_refused(self, data: st.DataObject) -> None:
        made = bytearray(sign(SECRET, "me", NOW))
        # The last letter has bits that mean nothing.
        index = data.draw(st.integers(0, len(made) - 2))
        made[index] ^= data.draw(st.integers(1, 255))
        assert not verify(SECRET, bytes(made), NOW)


class TestSigner:
    def test_a_token_is_given_out_again_while_it_is_new(self) -> None:
        signer = Signer(Key("ES256", EC_KEY), "me", reuse_seconds=10)
        first = signer.token(NOW)
        assert verify(Key("ES256", EC_KEY.public_key()), first, NOW)
        assert signer.token(NOW + 9.9) is first
        second = signer.token(NOW + 10)
        assert second != first
        assert signer.token(NOW + 19.9) is second

    def test_a_clock_that_was_set_back_makes_a_new_token(self) -> None:
        signer = Signer(SECRET, "me")
        signer.token(NOW)
        assert signer.token(NOW - 5000) == sign(SECRET, "me", NOW - 5000)

    def test_a_public_key_is_refused(self) -> None:
        with pytest.raises(KeyFormatError):
            Signer(Key("ES256", EC_KEY.public_key()), "me")
