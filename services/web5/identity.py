"""Verifies that a presentation proves its holder's identity and consent to one payment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import FailedPrecondition, Reason
from services.web5 import presentation
from services.web5.proof import VerificationError, VerificationFailure

if TYPE_CHECKING:
    from mesh.security.assurance import Assurance
    from services.web5.credential import Credential
    from services.web5.did import Did
    from services.web5.policy import EvidenceClass, IdentityPolicy
    from services.web5.presentation import Presentation

CHALLENGE_LIFETIME_MS = 300_000
MAX_OPEN_CHALLENGES = 10  # per caller and DID, so that no caller can block another one


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationChallenge:
    """A nonce that was issued for one payment of one DID."""

    nonce: str
    did: str
    digest: bytes  # of the payment, 32 bytes
    expires_ms: int
    spent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityClaim:
    """A presentation, and the DID, evidence class and payment that it has to prove."""

    did: Did
    method: str  # verification_method of the request: an evidence class of the identity policy
    sender_did: str  # of the payment's intent
    sender_address: str
    network: str
    digest: bytes  # of the payment's intent
    presentation: str  # VP-JWT


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityVerdict:
    reasons: tuple[VerificationFailure, ...] = ()  # empty if verified
    evidence: tuple[str, ...] = ()  # types of the accepted credentials
    confidence: float = 0.0
    assurance: Assurance | None = None

    @property
    def verified(self) -> bool:
        return not self.reasons


class IdentityVerifier:
    """Verifies one claim by one policy, for presentations addressed to one service.

    Signatures are checked once, on construction; ``verify`` may be called in each attempt of a
    transaction.
    """

    def __init__(self, claim: IdentityClaim, policy: IdentityPolicy, *, audience: Did) -> None:
        self.claim = claim
        self.nonce = presentation.claimed_nonce(claim.presentation)
        self._policy = policy
        self._audience = audience
        self._presented = _open(claim.presentation)

    def verify(self, challenge: VerificationChallenge | None, *, now_ms: int) -> IdentityVerdict:
        """Returns the verdict at ``now_ms`` (Unix milliseconds).

        ``challenge`` is the stored challenge with the presentation's nonce, or None. Raises
        FailedPrecondition (UNSUPPORTED_METHOD) if the policy has no such class.
        """
        method = self.claim.method
        evidence_class = self._policy.classes.get(method)
        if evidence_class is None:
            raise FailedPrecondition(
                f"the identity policy has no evidence class {method[:64]!r}; it has"
                f" {', '.join(sorted(self._policy.classes)) or 'none'}",
                reason=Reason.UNSUPPORTED_METHOD,
                field="verification_method",
            )
        if isinstance(self._presented, VerificationError):
            return IdentityVerdict(reasons=(self._presented.failure,))
        now = now_ms // 1000
        reasons = self._presented.failures(audience=self._audience, now=now)
        reasons += self._binding(self._presented, challenge, now_ms)
        evidence, missing = self._evidence(self._presented, evidence_class, now)
        if reasons or missing:
            return IdentityVerdict(reasons=tuple(dict.fromkeys(reasons + missing)))
        return IdentityVerdict(
            evidence=evidence,
            confidence=evidence_class.confidence,
            assurance=evidence_class.assurance,
        )

    def _binding(
        self, presented: Presentation, challenge: VerificationChallenge | None, now_ms: int
    ) -> list[VerificationFailure]:
        """Returns what prevents the nonce from proving this payment of this DID."""
        claim, found = self.claim, []
        if not presented.holder == claim.did == claim.sender_did:
            found.append(VerificationFailure.WRONG_HOLDER)
        if presented.payment_digest not in (None, claim.digest):
            found.append(VerificationFailure.WRONG_PAYMENT)
        if challenge is None:
            return [*found, VerificationFailure.NONCE_UNKNOWN]
        if challenge.spent:
            found.append(VerificationFailure.NONCE_SPENT)
        if challenge.expires_ms <= now_ms:
            found.append(VerificationFailure.NONCE_EXPIRED)
        if challenge.did != presented.holder:
            found.append(VerificationFailure.WRONG_HOLDER)
        if challenge.digest != claim.digest:
            found.append(VerificationFailure.WRONG_PAYMENT)
        return found

    def _evidence(
        self, presented: Presentation, evidence_class: EvidenceClass, now: int
    ) -> tuple[tuple[str, ...], list[VerificationFailure]]:
        """Returns the accepted credential types, or else the failure of each candidate."""
        counted: list[str] = []
        missing: list[VerificationFailure] = []
        for credential in presented.credentials:
            if isinstance(credential, VerificationError):
                missing.append(credential.failure)
                continue
            types = [name for name in credential.types if name in evidence_class.credential_types]
            if not types:
                continue
            try:
                if self._policy.require_typ:
                    credential.check_typ()
                _check(credential, presented.holder, evidence_class, now)
            except VerificationError as error:
                missing.append(error.failure)
            else:
                counted += types
        if counted:
            return tuple(dict.fromkeys(counted)), []
        return (), missing or [VerificationFailure.CREDENTIAL_MISSING]


def _open(token: str) -> Presentation | VerificationError:
    try:
        return presentation.verify(token)
    except VerificationError as error:
        return error


def _check(credential: Credential, holder: Did, evidence_class: EvidenceClass, now: int) -> None:
    if credential.subject != holder:
        raise VerificationError(
            VerificationFailure.WRONG_SUBJECT, "the credential is about another DID"
        )
    if credential.issuer not in evidence_class.issuers:
        raise VerificationError(
            VerificationFailure.ISSUER_NOT_TRUSTED, "the identity policy does not trust its issuer"
        )
    credential.check_time(now)
