"""Attestations: signed verdicts that pass through other services unaltered.

The issuing service signs with the key of its own SVID and attaches its certificate chain. The
service that relies on the verdict checks signature, chain, issuer, subject and time itself. Every
attestation is about one SHA-256 digest: of a payment, or of a text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from anya.mesh.v1 import attestation_pb2 as pb
from formats import canonical_json, jose
from formats.money import MAX_SAT
from mesh.clock import Clock, SystemClock
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.security.file_state import state_of
from mesh.security.svid import read_authorities, read_svid
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from mesh.config import Identity

# The service that may issue each kind.
ISSUERS = {
    "identity": "web5",
    "address_link": "web5",
    "identity_features": "web5",
    "ownership": "bitcoin",
    "payment_features": "bitcoin",
    "risk": "ml",
}

MAX_LIFETIME_S = 600  # the longest that a verifier accepts
CLOCK_LEEWAY_S = 60  # by which clocks may differ
MAX_FIELD_CHARS = 2048
ACCEPT = "accept"  # the only decision on a risk with a positive verdict

TYPE = "anya-attestation+jwt"
CLAIMS = {"iss", "kind", "digest", "verdict", "values", "iat", "exp"}


def payment_digest(intent: pb.PaymentIntent) -> bytes:
    """Returns the SHA-256 of the intent's RFC 8785 form, which identifies the payment everywhere.

    Raises InvalidArgument if a field is missing or out of bounds.
    """
    fields: dict[str, str | int] = {
        "network": intent.network,
        "payment_id": intent.payment_id,
        "sender_did": intent.sender_did,
        "sender_address": intent.sender_address,
        "recipient_address": intent.recipient_address,
        "amount_sat": intent.amount_sat,
    }
    for name, value in fields.items():
        if isinstance(value, str) and not 1 <= len(value) <= MAX_FIELD_CHARS:
            raise InvalidArgument(
                f"{name} of the payment intent must be 1 to {MAX_FIELD_CHARS} characters",
                reason=Reason.INTENT_INVALID,
                field=f"intent.{name}",
            )
    if not 1 <= intent.amount_sat <= MAX_SAT:
        raise InvalidArgument(
            f"amount_sat must be 1 to {MAX_SAT}, not {intent.amount_sat}",
            reason=Reason.INTENT_INVALID,
            field="intent.amount_sat",
        )
    return hashlib.sha256(canonical_json.dumps(fields)).digest()


@dataclass(frozen=True, slots=True)
class Verified:
    """A valid attestation."""

    kind: str
    issuer: str  # SPIFFE ID
    digest: bytes
    verdict: bool
    values: Mapping[str, Any]
    issued_at: datetime
    expires_at: datetime


def states_approval(kind: str, values: Mapping[str, Any]) -> bool:
    """Returns the verdict that the values of this kind state; an attestation has no other.

    A risk needs the decision to accept and a score from 0 to 1; nothing degraded approves.
    """
    if values.get("degraded"):
        return False
    if kind != "risk":
        return True
    score = values.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return False
    return values.get("decision") == ACCEPT and 0 <= score <= 1


class _NegativeVerdictError(FailedPrecondition):
    """The issuer's verdict about this digest is negative."""

    def __init__(self, kind: str, values: Mapping[str, Any]) -> None:
        # Texts are left out, as they may be personal data; a decision is none.
        said = [
            f"{name} = {value}"
            for name, value in sorted(values.items())
            if name == "decision" or isinstance(value, bool | int | float)
        ]
        super().__init__(
            f"the {kind} attestation is a refusal: its verdict is negative"
            f" ({', '.join(said) or 'no values'})",
            reason=Reason.RISK_TOO_HIGH if kind == "risk" else Reason.PROOF_INVALID,
        )


class Attestor:
    """Signs attestations as one service. Raises ConfigError if certificate or key is invalid.

    Reads both again when the files change, so that a renewed certificate needs no restart.
    """

    def __init__(
        self, identity: Identity, *, clock: Clock | None = None, lifetime: int = MAX_LIFETIME_S
    ) -> None:
        self._identity = identity
        self._clock = clock or SystemClock()
        self._lifetime = lifetime
        self._read()

    def _read(self) -> None:
        """Reads certificate and key. Raises ConfigError if they are invalid, and keeps the old."""
        state = self._state()
        svid = read_svid(self._identity)
        self._issuer = svid.spiffe_id
        secret = svid.key.private_numbers().private_value.to_bytes(32)
        self._key = jose.P256Key.from_secret(secret)
        self._header = {
            "typ": TYPE,
            "x5c": [
                base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
                for certificate in svid.chain
            ],
        }
        self._seen = state

    def _state(self) -> object:
        return state_of(self._identity.certificate, self._identity.key)

    def _renew(self) -> None:
        """Reads the files again if they have changed; half a renewal is not taken up."""
        if self._state() != self._seen:
            with suppress(ConfigError):
                self._read()

    def attest(
        self,
        kind: str,
        digest: bytes,
        *,
        values: Mapping[str, Any],
        lifetime: int = MAX_LIFETIME_S,
    ) -> pb.Attestation:
        """Attests ``values`` about ``digest``, for the shorter of both lifetimes in seconds.

        The verdict is what the values state.
        """
        self._renew()
        now = int(self._clock.wall())
        claims = {
            "iss": self._issuer,
            "kind": kind,
            "digest": digest.hex(),
            "verdict": states_approval(kind, values),
            "values": dict(values),
            "iat": now,
            "exp": now + min(lifetime, self._lifetime, MAX_LIFETIME_S),
        }
        payload = json.dumps(claims, separators=(",", ":")).encode()
        return pb.Attestation(kind=kind, jws=jose.sign(payload, self._key, self._header))


class Verifier:
    """Verifies attestations against the CA bundle of mTLS; ConfigError if that is invalid."""

    def __init__(self, ca: Path, trust_domain: str, *, clock: Clock | None = None) -> None:
        self._store = Store(read_authorities(ca))
        self._trust_domain = trust_domain
        self._clock = clock or SystemClock()
        # A valid chain is checked once a minute; a service has one or two chains.
        self._checked = lru_cache(maxsize=64)(self._check_chain)

    def require(
        self, attestations: Iterable[pb.Attestation], kinds: Iterable[str], digest: bytes
    ) -> dict[str, Verified]:
        """Returns the newest valid, positive attestation of each kind about ``digest``.

        Raises FailedPrecondition with PROOF_MISSING, PROOF_INVALID or PROOF_EXPIRED, naming the
        kind. A newer attestation with a negative verdict overrides older positive ones.
        """
        by_kind: dict[str, list[pb.Attestation]] = {}
        for attestation in attestations:
            by_kind.setdefault(attestation.kind, []).append(attestation)
        return {kind: self._first(by_kind.get(kind, []), kind, digest) for kind in kinds}

    def _first(self, candidates: list[pb.Attestation], kind: str, digest: bytes) -> Verified:
        refusal = FailedPrecondition(
            f"no {kind} attestation came with this request", reason=Reason.PROOF_MISSING
        )
        for attestation in candidates[:-9:-1]:  # the newest first, eight at most
            try:
                return self.verify(attestation, kind, digest)
            except _NegativeVerdictError:
                raise  # the issuer has since decided otherwise
            except FailedPrecondition as error:
                refusal = error
        raise refusal

    def verify(self, attestation: pb.Attestation, kind: str, digest: bytes) -> Verified:
        """Returns the contents of the attestation. Raises FailedPrecondition if it is invalid."""
        now = self._clock.wall()
        try:
            claims = self._claims(attestation.jws, int(now // 60))
        except (jose.JoseError, VerificationError, ValueError, KeyError, TypeError) as error:
            raise _invalid(kind, str(error)) from None
        expected = f"spiffe://{self._trust_domain}/ns/anya/sa/{ISSUERS[kind]}"
        if claims["iss"] != expected:
            raise _invalid(kind, f"it must come from {expected}")
        if claims["kind"] != kind or claims["digest"] != digest.hex():
            raise _invalid(kind, "it is about another digest or kind")
        if not isinstance(claims["verdict"], bool):
            raise _invalid(kind, "its verdict must be true or false")
        # The issuer may be wrong about either: a refusal in the verdict or in the values is one.
        if not claims["verdict"] or not states_approval(kind, claims["values"]):
            raise _NegativeVerdictError(kind, claims["values"])
        issued, expires = claims["iat"], claims["exp"]
        if expires <= now:
            raise FailedPrecondition(
                f"the {kind} attestation has expired; start a new payment",
                reason=Reason.PROOF_EXPIRED,
            )
        if issued > now + CLOCK_LEEWAY_S or expires - issued > MAX_LIFETIME_S:
            raise _invalid(kind, "its times are not plausible")
        return Verified(
            kind,
            claims["iss"],
            digest,
            True,
            claims["values"],
            datetime.fromtimestamp(issued, UTC),
            datetime.fromtimestamp(expires, UTC),
        )

    def _claims(self, token: str, minute: int) -> dict[str, Any]:
        parsed = jose.parse(token)
        if parsed.header.get("typ") != TYPE:
            raise jose.JoseError(f"typ must be {TYPE}")
        x5c = parsed.header["x5c"]
        if not isinstance(x5c, list) or not all(isinstance(text, str) for text in x5c):
            raise jose.JoseError("x5c must list texts")
        issuer, key = self._checked(tuple(x5c), minute)
        parsed.verify(key)
        claims = jose.load_json(parsed.payload)
        if not isinstance(claims, dict) or claims.keys() != CLAIMS:
            raise jose.JoseError("its claims are not those of an attestation")
        if claims["iss"] != issuer:
            raise jose.JoseError("its certificate is not the issuer's")
        jose.claims.whole_seconds(claims, "iat")
        jose.claims.whole_seconds(claims, "exp")
        if not isinstance(claims["values"], dict):
            raise jose.JoseError("values must be an object")
        canonical_json.dumps(claims["values"])  # raises ValueError for inexact numbers
        return claims

    def _check_chain(self, x5c: tuple[str, ...], minute: int) -> tuple[str, jose.P256Key]:
        """Returns SPIFFE ID and key of a chain to our CA, valid at ``minute`` (Unix time / 60)."""
        if not 1 <= len(x5c) <= 4:
            raise jose.JoseError("x5c must hold 1 to 4 certificates")
        chain = [x509.load_der_x509_certificate(base64.b64decode(text)) for text in x5c]
        moment = datetime.fromtimestamp(minute * 60, UTC)
        leaf = chain[0]
        # A leaf may have been issued within this minute: then it is checked at its own start.
        moment = min(max(moment, leaf.not_valid_before_utc), leaf.not_valid_after_utc)
        if abs(moment.timestamp() - minute * 60) > 60:
            raise jose.JoseError("its certificate is not valid now")
        verifier = PolicyBuilder().store(self._store).time(moment).build_client_verifier()
        verifier.verify(leaf, chain[1:])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ids = names.get_values_for_type(x509.UniformResourceIdentifier)
        public = leaf.public_key()
        if len(ids) != 1 or not isinstance(public, ec.EllipticCurvePublicKey):
            raise jose.JoseError("its certificate must have one SPIFFE ID and a P-256 key")
        return ids[0], jose.P256Key.from_public(public)


def _invalid(kind: str, cause: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the {kind} attestation does not hold: {cause}", reason=Reason.PROOF_INVALID
    )
