"""The certificate of a peer, as far as it is judged at each call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes

MAX_CACHED_CERTIFICATES = 1024


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The names by which a certificate can be revoked, and its validity in Unix seconds."""

    serial: str  # lowercase hex without leading zeros
    fingerprint: str  # SHA-256 of its DER form, lowercase hex
    not_before: float
    not_after: float  # the last valid second (RFC 5280 §4.1.2.5)

    def is_valid_at(self, moment: float) -> bool:
        """Tells if the validity includes ``moment`` (Unix seconds)."""
        return self.not_before <= moment <= self.not_after


# TLS checks the validity at the handshake alone, but a connection outlives it, and a resumed
# session has no check. So each call is judged, and a certificate is parsed at its first.
@lru_cache(maxsize=MAX_CACHED_CERTIFICATES)
def read_peer_certificate(pem: bytes) -> PeerCertificate:
    """Returns the certificate. Raises ValueError if ``pem`` is none."""
    certificate = x509.load_pem_x509_certificate(pem)
    return PeerCertificate(
        serial=f"{certificate.serial_number:x}",
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
    )
