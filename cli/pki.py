"""The local mesh's certificates: one authority, and short-lived leaves that it renews.

Leaves follow the X.509-SVID profile (SPIFFE): the URI names the holder, the DNS names serve TLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cli.home import SERVICES, write_private

if TYPE_CHECKING:
    from pathlib import Path

    from cli.home import Home

AUTHORITY_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(hours=24)
HALF_LIFE = LEAF_LIFETIME / 2
CLOCK_SKEW = timedelta(minutes=5)  # between whoever issues and whoever checks

OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that a home should hold: whose, and where."""

    name: str
    folder: Path
    names: tuple[x509.GeneralName, ...]

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"


def renew(home: Home, *, trust_domain: str, now: datetime) -> list[str]:
    """Issue every leaf that is missing, not ours, or past half of its life; return their names."""
    authority = Authority.of(home.pki, trust_domain=trust_domain, now=now)
    due = [leaf for leaf in leaves(home, trust_domain) if not authority.vouches_for(leaf, now)]
    for leaf in due:
        authority.issue(leaf, now)
    return [leaf.name for leaf in due]


def leaves(home: Home, trust_domain: str) -> list[Leaf]:
    """One leaf per service, and the operator's."""
    services = [
        Leaf(
            name,
            home.pki,
            (
                x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/ns/anya/sa/{name}"),
                x509.DNSName(name),
                x509.DNSName("localhost"),
                x509.IPAddress(IPv4Address("127.0.0.1")),
            ),
        )
        for name in SERVICES
    ]
    operator = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/client/{OPERATOR}")
    return [*services, Leaf(OPERATOR, home.client, (operator,))]


def validity(certificate: Path) -> tuple[datetime, datetime]:
    """From when and until when the certificate in this file holds. ValueError if it holds none."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return loaded.not_valid_before_utc, loaded.not_valid_after_utc


class Authority:
    """The home's certificate authority. Its key never leaves the home."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def of(cls, folder: Path, *, trust_domain: str, now: datetime) -> Authority:
        """The authority in ``folder``; a new one if there is none, or if it is about to expire."""
        existing = _load(folder / "ca.pem", folder / "ca.key")
        if existing and existing[1].not_valid_after_utc - now > LEAF_LIFETIME:
            return cls(*existing)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _root(key, trust_domain, now)
        write_private(folder / "ca.key", _pem(key))
        write_private(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
        return cls(key, certificate)

    def vouches_for(self, leaf: Leaf, now: datetime) -> bool:
        """Whether the leaf on disk is ours, names what it should, and is in its first half."""
        existing = _load(leaf.certificate, leaf.key)
        if existing is None or existing[1].not_valid_after_utc - now < HALF_LIFE:
            return False
        try:
            existing[1].verify_directly_issued_by(self._certificate)
        except (ValueError, InvalidSignature):
            return False
        names = existing[1].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(names.value) == leaf.names

    def issue(self, leaf: Leaf, now: datetime) -> None:
        """Write a new key and a certificate for it."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _draft(x509.Name([]), self._certificate.subject, key, now, LEAF_LIFETIME)
            .add_extension(x509.SubjectAlternativeName(leaf.names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        write_private(leaf.key, _pem(key))
        write_private(leaf.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _root(key: ec.EllipticCurvePrivateKey, trust_domain: str, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain} local authority")])
    domain = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        _draft(name, name, key, now, AUTHORITY_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([domain]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _draft(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(**granted: bool) -> x509.KeyUsage:
    usages = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(usages | granted))


def _load(
    certificate: Path, key: Path
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None:
    """The pair on disk; None if either is missing or broken, or if they do not belong together."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return None
    return (private, loaded) if private.public_key() == loaded.public_key() else None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
