"""The link of a Bitcoin address to a DID: two proofs over one challenge.

The address signs a text that names the DID, so that nobody claims another's address; the DID signs
the text's nonce, so that nobody adorns another's DID with an address. The first proof arrives as
bitcoin's attestation of kind ownership over SHA-256 of the text; the second is a JWS, described in
services/web5/presentation.py.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from formats.bitcoin.address import SEGWIT_PREFIXES
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.security.address_link import CHAINS, AddressLinkText
from services.web5 import credential, proof
from services.web5.did import Relationship
from services.web5.proof import VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.web5.did import Did
    from services.web5.proof import Signer

CHALLENGE_LIFETIME_S = 600  # seconds
MAX_OPEN_CHALLENGES = 10  # of one DID, asked for by one caller: nobody can lock out another
MAX_ATTEMPTS = 5
MAX_SIGNATURE_CHARS = 1024  # characters; that of P2WPKH has 147
LINK_LIFETIME_S = 180 * 86_400  # seconds that a link lives without being renewed

CREDENTIAL_TYPE = "BitcoinAddressLinkCredential"
BECH32 = re.compile(r"[ac-hj-np-z02-9]{39,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChallenge:
    """A text to sign, given out for one DID and one address."""

    id: str
    did: Did
    address: str
    network: str
    public: bool
    nonce: str
    message: str
    expires_at: int  # Unix seconds
    attempts: int = 0  # proofs that failed
    spent: bool = False

    @property
    def digest(self) -> bytes:
        """What bitcoin's attestation must be about."""
        return hashlib.sha256(self.message.encode()).digest()

    def check_open(self, now: int) -> None:
        """FailedPrecondition (CHALLENGE_SPENT, CHALLENGE_EXPIRED) if it can prove nothing more."""
        if self.spent or self.attempts >= MAX_ATTEMPTS:
            raise FailedPrecondition(
                f"challenge {self.id} was used; begin a new link", reason=Reason.CHALLENGE_SPENT
            )
        if self.expires_at <= now:
            raise FailedPrecondition(
                f"challenge {self.id} has expired; begin a new link",
                reason=Reason.CHALLENGE_EXPIRED,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """What BeginAddressLink asks for; the address in its one spelling."""

    did: Did
    address: str
    network: str
    public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvidence:
    """The two proofs, as they are kept with the link."""

    address_signature: str
    did_proof: str
    verifier: str  # SPIFFE ID of the service that checked the address's signature
    height: int  # of the chain's tip then


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An address that belongs to a DID, by proof."""

    id: str
    did: str
    address: str
    network: str
    public: bool
    linked_height: int
    expires_at: int  # Unix seconds


def write_challenge(
    request: LinkRequest, *, id: str, nonce: str, audience: Did, now: int
) -> LinkChallenge:
    """The text that the address has to sign. InvalidArgument if the DID does not fit into it."""
    text = AddressLinkText(
        audience=audience,
        address=request.address,
        did=request.did,
        network=request.network,
        challenge_id=id,
        nonce=nonce,
        issued_at=datetime.fromtimestamp(now, UTC),
        expires_at=datetime.fromtimestamp(now + CHALLENGE_LIFETIME_S, UTC),
    )
    return LinkChallenge(
        id=id,
        did=request.did,
        address=request.address,
        network=request.network,
        public=request.public,
        nonce=nonce,
        message=text.format(),
        expires_at=now + CHALLENGE_LIFETIME_S,
    )


def normal_address(address: str, network: str) -> str:
    """The lower-case spelling of a bech32 address. InvalidArgument if it is none of the network.

    Whether it is an address at all is bitcoin's to check when it attests the signature.
    """
    prefix = SEGWIT_PREFIXES.get(network)
    if prefix is None:
        raise InvalidArgument(
            f"network must be one of {', '.join(SEGWIT_PREFIXES)}", field="network"
        )
    lower = address.lower()
    head, _, data = lower.rpartition("1")
    if address not in (lower, address.upper()) or head != prefix or not BECH32.fullmatch(data):
        raise InvalidArgument(
            f"address must be a segwit address of {network}, {prefix}1...",
            reason=Reason.ADDRESS_INVALID,
            field="address",
        )
    return lower


def check_did_proof(token: str, challenge: LinkChallenge) -> None:
    """FailedPrecondition (PROOF_MISSING, PROOF_INVALID) unless the challenge's DID signed it."""
    if not token:
        raise FailedPrecondition("did_proof is missing", reason=Reason.PROOF_MISSING)
    try:
        verified = proof.verify(token, Relationship.AUTHENTICATION)
    except VerificationError as error:
        raise _invalid(f"did_proof: {error}") from None
    if verified.signer != challenge.did:
        raise _invalid("did_proof is signed by another DID than the challenge's")
    expected: dict[str, Any] = {
        "nonce": challenge.nonce,
        "address": challenge.address,
        "did": challenge.did,
        "challenge_id": challenge.id,
    }
    if challenge.public:
        expected["public"] = True
    if verified.claims != expected:
        raise _invalid("did_proof must hold just what the challenge says")


def check_ownership(
    values: Mapping[str, Any], challenge: LinkChallenge, address_signature: str
) -> int:
    """The height in bitcoin's attestation. FailedPrecondition (PROOF_INVALID) unless it is about
    the challenge's address and this very signature, which is kept as evidence.
    """
    if values.get("address") != challenge.address:
        raise _invalid("the ownership attestation is about another address")
    if values.get("signature_sha256") != hashlib.sha256(address_signature.encode()).hexdigest():
        raise _invalid("the ownership attestation is about another signature")
    height = values.get("height")
    if not isinstance(height, int) or isinstance(height, bool) or not 0 <= height < 1 << 32:
        raise _invalid("the ownership attestation names no height")
    return height


def link(
    challenge: LinkChallenge, evidence: LinkEvidence, *, id: str, renewed: Link | None, now: int
) -> Link:
    """The link that the challenge's proofs make. One that is live keeps its id and its age."""
    return Link(
        id=renewed.id if renewed else id,
        did=challenge.did,
        address=challenge.address,
        network=challenge.network,
        public=challenge.public,
        linked_height=renewed.linked_height if renewed else evidence.height,
        expires_at=now + LINK_LIFETIME_S,
    )


def issue_credential(
    made: Link, challenge: LinkChallenge, evidence: LinkEvidence, issuer: Signer, *, now: int
) -> str:
    """The BitcoinAddressLinkCredential of a link, as VC-JWT by the service's DID."""
    draft = credential.CredentialDraft(
        id=f"urn:uuid:{made.id}",
        type=CREDENTIAL_TYPE,
        subject=made.did,
        claims={
            "bitcoinAddress": {
                "caip10": f"bip122:{CHAINS[made.network]}:{made.address}",
                "address": made.address,
                "network": made.network,
                "linkedHeight": made.linked_height,
            }
        },
        evidence={
            "type": "BitcoinAddressControlProof",
            "proofType": "BIP322_SIMPLE",
            "message": challenge.message,
            "signature": evidence.address_signature,
            "didProof": evidence.did_proof,
            "challengeId": challenge.id,
            "nonce": challenge.nonce,
            "verifier": evidence.verifier,
            "chainTip": {"height": evidence.height},
        },
        issued_at=now,
        expires_at=made.expires_at,
    )
    return credential.issue(draft, issuer)


def _invalid(why: str) -> FailedPrecondition:
    return FailedPrecondition(why, reason=Reason.PROOF_INVALID)
