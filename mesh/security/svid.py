"""Reads the certificate that identifies this process, and checks it against its key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mesh.settings import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.config import Identity

REMEDY = "anya up writes certificates to ANYA_HOME/pki, a cluster mounts them there"


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID: a SPIFFE ID, its certificate chain, and its key on P-256."""

    spiffe_id: str
    chain: tuple[x509.Certificate, ...]  # the leaf first
    key: ec.EllipticCurvePrivateKey


def read_svid(identity: Identity) -> Svid:
    """Returns the SVID. Raises ConfigError if a file is missing or invalid, or they do not fit."""
    chain = _read_certificates(identity.certificate)
    try:
        key = load_pem_private_key(_read(identity.key), password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        raise ConfigError(f"{identity.key} is not a plain PEM key; {REMEDY}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{identity.key} must be a key on P-256; {REMEDY}")
    if chain[0].public_key() != key.public_key():
        raise ConfigError(f"{identity.key} is not the key of {identity.certificate}; {REMEDY}")
    return Svid(_spiffe_id(chain[0], identity.certificate), tuple(chain), key)


def read_authorities(ca: Path) -> list[x509.Certificate]:
    """Returns the trusted CA certificates. Raises ConfigError if the file has none."""
    return _read_certificates(ca)


def _spiffe_id(leaf: x509.Certificate, path: Path) -> str:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (spiffe_id,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        raise ConfigError(f"{path} must name one SPIFFE ID; {REMEDY}") from None
    return spiffe_id


def _read_certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise ConfigError(f"{path} holds no PEM certificate; {REMEDY}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from None
