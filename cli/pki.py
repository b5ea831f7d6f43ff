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
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli.home import SERVICES, write_private
from mesh.security.certificates import KeyPair, issue_authority, issue_leaf

if TYPE_CHECKING:
    from pathlib import Path

    from cli.home import Home

AUTHORITY_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(hours=24)
HALF_LIFE = LEAF_LIFETIME / 2
CLOCK_SKEW = timedelta(minutes=5)  # of the clocks of issuer and verifier

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
    """Issues every leaf that is missing, foreign or past half of its life; returns their names."""
    authority = Authority.of(home.pki, trust_domain=trust_domain, now=now)
    due = [leaf for leaf in leaves(home, trust_domain) if not authority.vouches_for(leaf, now)]
    for leaf in due:
        authority.issue(leaf, now)
    return [leaf.name for leaf in due]


def leaves(home: Home, trust_domain: str) -> list[Leaf]:
    """Returns one leaf per service, and the operator's."""
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
    """Returns the validity of the certificate in the file. Raises ValueError if it holds none."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    return loaded.not_valid_before_utc, loaded.not_valid_after_utc


class Authority:
    """The home's certificate authority. Its key never leaves the home."""

    def __init__(self, pair: KeyPair) -> None:
        self._pair = pair

    @classmethod
    def of(cls, folder: Path, *, trust_domain: str, now: datetime) -> Authority:
        """Returns the authority in ``folder``; creates one if there is none or it expires soon."""
        existing = _load(folder / "ca.pem", folder / "ca.key")
        if existing and existing.certificate.not_valid_after_utc - now > LEAF_LIFETIME:
            return cls(existing)
        pair = issue_authority(
            f"{trust_domain} local authority",
            [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")],
            not_before=now - CLOCK_SKEW,
            not_after=now + AUTHORITY_LIFETIME,
        )
        write_private(folder / "ca.key", pair.key_pem())
        write_private(folder / "ca.pem", pair.certificate_pem())
        return cls(pair)

    def vouches_for(self, leaf: Leaf, now: datetime) -> bool:
        """Returns True if the leaf is ours, has its names and is in its first half."""
        existing = _load(leaf.certificate, leaf.key)
        if existing is None or existing.certificate.not_valid_after_utc - now < HALF_LIFE:
            return False
        try:
            existing.certificate.verify_directly_issued_by(self._pair.certificate)
        except (ValueError, InvalidSignature):
            return False
        names = existing.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return tuple(names.value) == leaf.names

    def issue(self, leaf: Leaf, now: datetime) -> None:
        """Writes a new key and a certificate for it."""
        pair = issue_leaf(
            self._pair, leaf.names, not_before=now - CLOCK_SKEW, not_after=now + LEAF_LIFETIME
        )
        write_private(leaf.key, pair.key_pem())
        write_private(leaf.certificate, pair.certificate_pem())


def _load(certificate: Path, key: Path) -> KeyPair | None:
    """Returns the pair on disk, or None if one is missing or damaged or they do not match."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        return None
    return KeyPair(private, loaded) if private.public_key() == loaded.public_key() else None
