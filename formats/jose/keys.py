"""Signature keys of three curves, and their public JWKs (RFC 7517, 7518, 8037, 8812)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from formats.jose.base64url import decode, encode
from formats.jose.errors import JoseError

if TYPE_CHECKING:
    from collections.abc import Mapping

ED25519_PRIME = 2**255 - 19
ED25519_D = -121665 * pow(121666, -1, ED25519_PRIME) % ED25519_PRIME
# y of the points whose order divides 8: a signature for such a key needs no secret.
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
ED25519_SMALL = frozenset({0, 1, ED25519_PRIME - 1, _Y8, ED25519_PRIME - _Y8})
SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class PublicKey(Protocol):
    @property
    def algorithm(self) -> str:
        """The JWS algorithm of this key: "EdDSA", "ES256K" or "ES256"."""
        ...

    @property
    def jwk(self) -> dict[str, str]:
        """The public JWK, required members only."""
        ...

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Returns whether this key made ``signature`` (64 bytes) over ``data``."""
        ...


class SigningKey(PublicKey, Protocol):
    @property
    def secret(self) -> bytes:
        """The private key, 32 bytes."""
        ...

    def sign(self, data: bytes) -> bytes:
        """Returns 64 bytes: an EdDSA signature, or r and a low s, each 32 bytes big-endian."""
        ...


@dataclass(frozen=True, slots=True)
class Ed25519Key:
    """An Ed25519 key (RFC 8037)."""

    point: bytes  # 32 bytes
    secret: bytes = b""

    algorithm = "EdDSA"

    @classmethod
    def generate(cls) -> Ed25519Key:
        return cls.from_secret(ed25519.Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_secret(cls, secret: bytes) -> Ed25519Key:
        private = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
        return cls(private.public_key().public_bytes_raw(), secret)

    @property
    def jwk(self) -> dict[str, str]:
        return {"kty": "OKP", "crv": "Ed25519", "x": encode(self.point)}

    def verify(self, signature: bytes, data: bytes) -> bool:
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.point).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def sign(self, data: bytes) -> bytes:
        return ed25519.Ed25519PrivateKey.from_private_bytes(self.secret).sign(data)

    def __repr__(self) -> str:
        return f"Ed25519Key({self.point.hex()})"


@dataclass(frozen=True, slots=True)
class Secp256k1Key:
    """A secp256k1 key (RFC 8812)."""

    point: bytes  # 33 bytes, compressed
    secret: bytes = b""

    algorithm = "ES256K"

    @classmethod
    def generate(cls) -> Secp256k1Key:
        from coincurve import PrivateKey  # loaded by users of this curve only

        return cls.from_secret(PrivateKey().secret)

    @classmethod
    def from_secret(cls, secret: bytes) -> Secp256k1Key:
        from coincurve import PrivateKey

        return cls(PrivateKey(secret).public_key.format(), secret)

    @property
    def jwk(self) -> dict[str, str]:
        from coincurve import PublicKey as Point

        whole = Point(self.point).format(compressed=False)
        return {
            "kty": "EC",
            "crv": "secp256k1",
            "x": encode(whole[1:33]),
            "y": encode(whole[33:]),
        }

    def verify(self, signature: bytes, data: bytes) -> bool:
        from coincurve import PublicKey as Point

        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        # The library accepts a low s only, as Bitcoin does; RFC 8812 allows both.
        s = min(s, max(0, SECP256K1_ORDER - s))
        try:
            return Point(self.point).verify(encode_dss_signature(r, s), data)
        except ValueError:
            return False

    def sign(self, data: bytes) -> bytes:
        from coincurve import PrivateKey

        return PrivateKey(self.secret).sign_recoverable(data)[:64]

    def __repr__(self) -> str:
        return f"Secp256k1Key({self.point.hex()})"


@dataclass(frozen=True, slots=True)
class P256Key:
    """A P-256 key (RFC 7518)."""

    point: bytes  # 33 bytes, compressed
    secret: bytes = b""

    algorithm = "ES256"

    @classmethod
    def from_secret(cls, secret: bytes) -> P256Key:
        private = ec.derive_private_key(int.from_bytes(secret), ec.SECP256R1())
        return cls.from_public(private.public_key(), secret)

    @classmethod
    def from_public(cls, public: ec.EllipticCurvePublicKey, secret: bytes = b"") -> P256Key:
        numbers = public.public_numbers()
        return cls(bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(32), secret)

    @property
    def _public(self) -> ec.EllipticCurvePublicKey:
        return _p256_public(self.point)

    @property
    def jwk(self) -> dict[str, str]:
        numbers = self._public.public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": encode(numbers.x.to_bytes(32)),
            "y": encode(numbers.y.to_bytes(32)),
        }

    def verify(self, signature: bytes, data: bytes) -> bool:
        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        try:
            self._public.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def sign(self, data: bytes) -> bytes:
        private = _p256_private(self.secret)
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + min(s, P256_ORDER - s).to_bytes(32)

    def __repr__(self) -> str:
        return f"P256Key({self.point.hex()})"


# A service signs with one key, and verifies the signatures of few others.
@lru_cache(maxsize=1024)
def _p256_public(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


@lru_cache(maxsize=4)
def _p256_private(secret: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(secret), ec.SECP256R1())


Key = Ed25519Key | Secp256k1Key | P256Key


def from_jwk(jwk: Mapping[str, Any]) -> Key:
    """Returns the public key of a JWK.

    Raises JoseError if the JWK is private, off its curve, or of a curve other than the three.
    """
    if "d" in jwk:
        raise JoseError("the JWK holds a private key; give the public one")
    kind = (jwk.get("kty"), jwk.get("crv"))
    if kind == ("OKP", "Ed25519"):
        return _ed25519(_coordinate(jwk, "x"))
    if kind == ("EC", "secp256k1"):
        return _secp256k1(b"\x04" + _coordinate(jwk, "x") + _coordinate(jwk, "y"))
    if kind == ("EC", "P-256"):
        return _p256(b"\x04" + _coordinate(jwk, "x") + _coordinate(jwk, "y"))
    raise JoseError(f"kty {kind[0]!r} with crv {kind[1]!r} is not supported")


def from_point(curve: str, point: bytes) -> Key:
    """Returns the public key of an encoded point on "Ed25519", "secp256k1" or "P-256".

    Raises JoseError if the point is off the curve, of small order, or not 32 or 33 bytes.
    """
    if curve == "Ed25519" and len(point) == 32:
        return _ed25519(point)
    if curve == "secp256k1" and len(point) == 33:
        return _secp256k1(point)
    if curve == "P-256" and len(point) == 33:
        return _p256(point)
    raise JoseError(f"{len(point)} bytes are no public key of {curve}")


def _ed25519(point: bytes) -> Ed25519Key:
    """Checks the point as RFC 8032, section 5.1.3 says: the library accepts any 32 bytes."""
    y = int.from_bytes(point, "little") & (1 << 255) - 1
    u, v = (y * y - 1) % ED25519_PRIME, (ED25519_D * y * y + 1) % ED25519_PRIME
    is_square = pow(u * v, (ED25519_PRIME - 1) // 2, ED25519_PRIME) <= 1
    if y >= ED25519_PRIME or not is_square or (u == 0 and point[31] >= 0x80):
        raise JoseError("the point is not on Ed25519")
    if y in ED25519_SMALL:
        raise JoseError("the point has a small order: a signature for it needs no secret")
    return Ed25519Key(point)


def _secp256k1(point: bytes) -> Secp256k1Key:
    from coincurve import PublicKey as Point

    try:
        return Secp256k1Key(Point(point).format())
    except ValueError:
        raise JoseError("the point is not on secp256k1") from None


def _p256(point: bytes) -> P256Key:
    try:
        return P256Key.from_public(
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        )
    except ValueError:
        raise JoseError("the point is not on P-256") from None


def _coordinate(jwk: Mapping[str, Any], name: str) -> bytes:
    text = jwk.get(name)
    if not isinstance(text, str) or len(coordinate := decode(text)) != 32:
        raise JoseError(f"{name} of the JWK must be 32 bytes in base64url")
    return coordinate
