"""Strict JOSE: one encoding, one algorithm for each key, no malleable token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import jose
from formats.jose import Ed25519Key, JoseError, P256Key, Secp256k1Key
from formats.jose.keys import ED25519_SMALL, P256_ORDER, SECP256K1_ORDER

if TYPE_CHECKING:
    from formats.jose import Key

KEYS: list[Key] = [
    Ed25519Key.from_secret(bytes(range(32))),
    Secp256k1Key.from_secret(bytes(range(1, 33))),
    P256Key.from_secret(bytes(range(1, 33))),
]
IDS = ["Ed25519", "secp256k1", "P-256"]

# RFC 8037, appendix A.4.
RFC8037_SECRET = jose.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
RFC8037_JWS = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-"
    "09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


@pytest.mark.parametrize("key", KEYS, ids=IDS)
def test_key_verifies_its_own_signature_only(key: Key) -> None:
    token = jose.sign(b"payload", key, {"kid": "k"})

    jose.parse(token).verify(jose.from_jwk(key.jwk))
    with pytest.raises(JoseError):
        jose.parse(jose.sign(b"payload", key, {"kid": "k"})[:-8] + "AAAAAAAA").verify(key)


def test_example_of_rfc_8037_is_reproduced() -> None:
    key = Ed25519Key.from_secret(RFC8037_SECRET)

    assert jose.sign(b"Example of Ed25519 signing", key, {}) == RFC8037_JWS
    jose.parse(RFC8037_JWS).verify(key)


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256", "EdDSA", ""])
def test_header_does_not_choose_the_algorithm(algorithm: str) -> None:
    key = KEYS[1]
    header = jose.encode(f'{{"alg":"{algorithm}"}}'.encode())
    signing_input = f"{header}.{jose.encode(b'x')}"
    token = f"{signing_input}.{jose.encode(key.sign(signing_input.encode()))}"

    with pytest.raises(JoseError, match="alg"):
        jose.parse(token).verify(key)


@pytest.mark.parametrize("key", KEYS, ids=IDS)
def test_private_jwk_is_refused(key: Key) -> None:
    with pytest.raises(JoseError, match="private"):
        jose.from_jwk({**key.jwk, "d": jose.encode(key.secret)})


@pytest.mark.parametrize("key", KEYS[1:], ids=IDS[1:])
def test_point_off_the_curve_is_refused(key: Key) -> None:
    with pytest.raises(JoseError, match="not on"):
        jose.from_jwk({**key.jwk, "y": jose.encode(bytes(31) + b"\x07")})


@pytest.mark.parametrize("y", sorted(ED25519_SMALL))
def test_key_of_small_order_is_refused(y: int) -> None:
    with pytest.raises(JoseError):
        jose.from_point("Ed25519", y.to_bytes(32, "little"))


@pytest.mark.parametrize("key", KEYS[1:], ids=IDS[1:])
def test_ecdsa_signatures_hold_with_either_s(key: Secp256k1Key | P256Key) -> None:
    order = {"ES256K": SECP256K1_ORDER, "ES256": P256_ORDER}[key.algorithm]
    signature = key.sign(b"data")
    other = (order - int.from_bytes(signature[32:])).to_bytes(32)

    assert key.verify(signature, b"data")
    assert key.verify(signature[:32] + other, b"data")
    assert not key.verify(signature[:32] + other, b"other data")
    for beyond in (bytes(32), order.to_bytes(32), bytes([255]) * 32):
        assert not key.verify(signature[:32] + beyond, b"data")


@pytest.mark.parametrize("key", KEYS, ids=IDS)
def test_key_does_not_print_its_secret(key: Key) -> None:
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


@pytest.mark.parametrize("text", ["YQ==", "YR", "Y Q", "Y+Q", "Y", "é"])
def test_only_the_canonical_base64url_is_read(text: str) -> None:
    with pytest.raises(JoseError):
        jose.decode(text)


@given(st.binary(max_size=80))
def test_bytes_survive_base64url(raw: bytes) -> None:
    assert jose.decode(jose.encode(raw)) == raw


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        "NaN",
        "[Infinity]",
        '"\\ud800"',
        "[" * 70 + "]" * 70,
        "[" * 100_000,
        "{",
        "",
    ],
)
def test_ambiguous_json_is_refused(text: str) -> None:
    with pytest.raises(JoseError):
        jose.load_json(text)


def test_critical_extension_is_refused() -> None:
    token = jose.sign(b"x", KEYS[0], {"crit": ["b64"]})

    with pytest.raises(JoseError, match="critical"):
        jose.parse(token)
