"""The certificate of a process: read if valid, or refused with the name of the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from mesh.security.svid import read_authorities, read_svid
from mesh.settings import ConfigError
from mesh.testing import Authority

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.config import Identity

WEB5 = "spiffe://anya.internal/ns/anya/sa/web5"


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """An identity of another authority, because the tests damage its files."""
    return Authority(tmp_path).issue_service("web5")


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = BestAvailableEncryption(b"secret")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)


def test_matching_certificate_and_key_are_read(identity: Identity) -> None:
    svid = read_svid(identity)

    assert svid.spiffe_id == WEB5
    assert svid.chain[0].public_key() == svid.key.public_key()
    assert len(read_authorities(identity.ca)) == 1


@pytest.mark.parametrize("part", ["certificate", "key"])
@pytest.mark.parametrize("damage", ["missing", "a folder", "empty", "no PEM", "cut"])
def test_unusable_file_is_named(identity: Identity, part: str, damage: str) -> None:
    path: Path = getattr(identity, part)
    whole = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "missing":
        left = {"empty": b"", "no PEM": b"nonsense", "cut": whole[: len(whole) // 2]}
        path.write_bytes(left[damage])

    with pytest.raises(ConfigError) as refusal:
        read_svid(identity)

    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (pem(ec.generate_private_key(ec.SECP256R1())), "is not the key of"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "must be a key on P-256"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "must be a key on P-256"),
        (pem(rsa.generate_private_key(65537, 2048)), "must be a key on P-256"),
        (encrypted(), "is not a plain PEM key"),
    ],
    ids=["another", "P-384", "Ed25519", "RSA", "encrypted"],
)
def test_key_on_another_curve_is_refused(identity: Identity, key: bytes, message: str) -> None:
    identity.key.write_bytes(key)

    with pytest.raises(ConfigError, match=message):
        read_svid(identity)


@pytest.mark.parametrize("names", [(), (WEB5, WEB5 + "2")], ids=["no name", "two names"])
def test_certificate_must_have_one_spiffe_id(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="must name one SPIFFE ID"):
        read_svid(Authority(tmp_path).issue(*names))


def test_file_without_ca_certificates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nonsense")

    with pytest.raises(ConfigError, match=str(path)):
        read_authorities(path)
