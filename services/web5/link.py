"""The link of a Bitcoin address to a DID: two proofs over one challenge.

The address signs a text that contains the DID, so a DID cannot claim a foreign address. The DID
signs the text's nonce, so an address cannot be attached to a foreign DID. The first proof arrives
as the bitcoin service's attestation of kind ownership over SHA-256 of the text; the second is a
JWS, described in services/web5/presentation.py.
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

CHALLENGE_LIFETIME_S = 600
MAX_OPEN_CHALLENGES = 10  # per caller and DID, so that no caller can block another one
MAX_ATTEMPTS = 5
MAX_SIGNATURE_CHARS = 1024  # a P2WPKH signature has 147
LINK_LIFETIME_S = 180 * 86_400  # from the latest proof

CREDENTIAL_TYPE = "BitcoinAddressLinkCredential"
BECH32 = re.compile(r"[ac-hj-np-z02-9]{39,80}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChallenge:
    """A text to sign, issued for one DID and one address."""

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
        """SHA-256 of the message, the subject of the bitcoin service's attestation."""
        return hashlib.sha256(self.message.encode()).digest()

    def check_open(self, now: int) -> None:
        """Raises FailedPrecondition (CHALLENGE_SPENT, CHALLENGE_EXPIRED) if it is not open."""
        if self.spent or self.attempts >= MAX_ATTEMPTS:
            raise FailedPrecondition(
                f"challenge {self.id} was used; call BeginAddressLink for a new one",
                reason=Reason.CHALLENGE_SPENT,
            )
        if self.expires_at <= now:
            raise FailedPrecondition(
                f"challenge {self.id} has expired; call BeginAddressLink for a new one",
                reason=Reason.CHALLENGE_EXPIRED,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRequest:
    """The parameters of BeginAddressLink; the address is in lower case."""

    did: Did
    address: str
    network: str
    public: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvidence:
    """The two proofs, as stored with the link."""

    address_signature: str
    did_proof: str
    verifier: str  # SPIFFE ID of the service that checked the address's signature
    height: int  # of the chain's tip when the signature was checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An address that was proved to belong to a DID."""

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
    """Returns a challenge with the text that the address has to sign. ``now``: Unix seconds.

    Raises InvalidArgument if the DID is too long for the text.
    """
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
    """Returns the lower-case form of a bech32 address (BIP 173).

    Raises InvalidArgument (ADDRESS_INVALID) if prefix or alphabet do not fit the network. The
    bitcoin service checks the checksum when it attests the signature.
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
    """Raises FailedPrecondition (PROOF_...) unless the challenge's DID signed its nonce.

    ``token``: the did_proof of CompleteAddressLink.
    """
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
    # In Python 1 == True, in JSON they are two values.
    if verified.claims != expected or verified.claims.get("public", True) is not True:
        raise _invalid("did_proof must contain exactly the members of the challenge")


def check_ownership(
    values: Mapping[str, Any], challenge: LinkChallenge, address_signature: str
) -> int:
    """Returns the height of the bitcoin service's ownership attestation.

    Raises FailedPrecondition (PROOF_INVALID) if the attestation is about another address than the
    challenge's, or about another signature than ``address_signature``, which is stored as evidence.
    """
    if values.get("address") != challenge.address:
        raise _invalid("the ownership attestation is about another address")
    if values.get("signature_sha256") != hashlib.sha256(address_signature.encode()).hexdigest():
        raise _invalid("the ownership attestation is about another signature")
    height = values.get("height")
    if not isinstance(height, int) or isinstance(height, bool) or not 0 <= height < 1 << 32:
        raise _invalid("the ownership attestation has no height")
    return height


def link(
    challenge: LinkChallenge, evidence: LinkEvidence, *, id: str, renewed: Link | None, now: int
) -> Link:
    """Returns the link that the proofs make. A ``renewed`` link keeps its id and its height."""
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
    """Returns the BitcoinAddressLinkCredential of a link, a VC-JWT by the service's DID."""
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
