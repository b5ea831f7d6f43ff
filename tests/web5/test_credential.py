"""Credentials and proofs: issued ones verify, all others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import jose
from services.web5 import credential, presentation, proof
from services.web5.credential import CredentialDraft
from services.web5.did import Method, Relationship
from services.web5.proof import VerificationError, VerificationFailure
from tests.web5.holder import credential_claims, signer

ISSUER = signer(jose.Ed25519Key.from_secret(b"\1" * 32))
HOLDER = signer(jose.Secp256k1Key.from_secret(b"\2" * 32), Method.JWK)
DRAFT = CredentialDraft(
    id="urn:uuid:1",
    type="BiometricCredential",
    subject=HOLDER.did,
    claims={"level": 2},
    evidence={"type": "Seen"},
    issued_at=1_767_225_600,
    expires_at=1_767_229_200,
)


def refusal(token: str) -> VerificationFailure:
    with pytest.raises(VerificationError) as refused:
        credential.verify(token)
    return refused.value.failure


@pytest.mark.parametrize("issuer", [ISSUER, HOLDER], ids=["Ed25519", "secp256k1"])
def test_issued_credential_verifies(issuer: proof.Signer) -> None:
    issued = credential.verify(credential.issue(DRAFT, issuer))

    assert (issued.issuer, issued.subject) == (issuer.did, HOLDER.did)
    assert issued.types == ("BiometricCredential",)
    assert issued.claims == {"id": HOLDER.did, "level": 2}
    assert (issued.issued_at, issued.expires_at) == (DRAFT.issued_at, DRAFT.expires_at)


def test_issued_credential_has_the_members_that_web5_js_reads() -> None:
    jws = jose.parse(credential.issue(DRAFT, ISSUER))

    claims = json.loads(jws.payload)
    assert jws.header == {"alg": "EdDSA", "kid": ISSUER.kid, "typ": "JWT"}
    assert claims == {
        "iss": ISSUER.did,
        "sub": HOLDER.did,
        "jti": "urn:uuid:1",
        "nbf": 1_767_225_600,
        "exp": 1_767_229_200,
        "vc": {
            "@context": ["https://www.w3.org/2018/credentials/v1"],
            "id": "urn:uuid:1",
            "type": ["VerifiableCredential", "BiometricCredential"],
            "issuer": ISSUER.did,
            "issuanceDate": "2026-01-01T00:00:00Z",
            "expirationDate": "2026-01-01T01:00:00Z",
            "credentialSubject": {"id": HOLDER.did, "level": 2},
            "evidence": [{"type": "Seen"}],
        },
    }


CLAIMS: dict[str, dict[str, Any]] = {
    "iss of another": {"iss": HOLDER.did},
    "issuer of another": {"vc": {"issuer": HOLDER.did}},
    "sub of another": {"sub": "did:key:z6Mkother"},
    "no sub": {"sub": None, "vc": {"credentialSubject": {}}},
    "jti of another": {"jti": "urn:uuid:2"},
    "no nbf": {"nbf": None},
    "nbf that is no whole number": {"nbf": 1.5},
    "nbf that is no number": {"nbf": True},
    "nbf before issuanceDate": {"nbf": 5},
    "exp without expirationDate": {"vc": {"expirationDate": None}},
    "exp after expirationDate": {"exp": 253_402_300_799},
    "no issuanceDate": {"vc": {"issuanceDate": None}},
    "issuanceDate without a zone": {"vc": {"issuanceDate": "2026-01-01T00:00:00"}},
    "issuanceDate that is none": {"vc": {"issuanceDate": "yesterday"}},
    "no context": {"vc": {"@context": []}},
    "another context first": {"vc": {"@context": ["https://www.w3.org/ns/credentials/v2"]}},
    "no type of its own": {"vc": {"type": ["VerifiableCredential"]}},
    "another type first": {"vc": {"type": ["BiometricCredential", "VerifiableCredential"]}},
    "types that are no texts": {"vc": {"type": ["VerifiableCredential", 1]}},
    "one type as text": {"vc": {"type": "VerifiableCredential"}},
    "two subjects": {"vc": {"credentialSubject": [{"id": HOLDER.did}]}},
    "a presentation too": {"vp": {}},
}


@pytest.mark.parametrize("changes", CLAIMS.values(), ids=CLAIMS)
def test_credential_with_contradicting_claims_is_refused(changes: dict[str, Any]) -> None:
    token = ISSUER.sign(credential_claims(ISSUER, HOLDER.did, **changes))

    assert refusal(token) is VerificationFailure.CREDENTIAL_INVALID


def test_issuer_may_be_an_object() -> None:
    changes = {"vc": {"issuer": {"id": ISSUER.did, "name": "Registry"}}}

    issued = credential.verify(ISSUER.sign(credential_claims(ISSUER, HOLDER.did, **changes)))

    assert issued.issuer == ISSUER.did


def test_credential_with_a_status_is_refused() -> None:
    changes = {"vc": {"credentialStatus": {"type": "BitstringStatusListEntry"}}}
    token = ISSUER.sign(credential_claims(ISSUER, HOLDER.did, **changes))

    assert refusal(token) is VerificationFailure.CREDENTIAL_STATUS_UNSUPPORTED


def forge(header: dict[str, Any], signature: bytes | None = None) -> str:
    """Returns a credential of ISSUER with this header, signed with ISSUER's key by default."""
    claims = json.dumps(credential_claims(ISSUER, HOLDER.did)).encode()
    signed = f"{jose.encode(json.dumps(header).encode())}.{jose.encode(claims)}"
    signature = ISSUER.key.sign(signed.encode()) if signature is None else signature
    return f"{signed}.{jose.encode(signature)}"


GOOD = {"alg": "EdDSA", "kid": ISSUER.kid, "typ": "JWT"}
HEADERS: dict[str, tuple[dict[str, Any], VerificationFailure]] = {
    "alg none": ({**GOOD, "alg": "none"}, VerificationFailure.CREDENTIAL_INVALID),
    "no alg": ({"kid": ISSUER.kid, "typ": "JWT"}, VerificationFailure.CREDENTIAL_INVALID),
    "a MAC's alg": ({**GOOD, "alg": "HS256"}, VerificationFailure.CREDENTIAL_INVALID),
    "another curve's alg": ({**GOOD, "alg": "ES256K"}, VerificationFailure.CREDENTIAL_INVALID),
    "no kid": ({"alg": "EdDSA", "typ": "JWT"}, VerificationFailure.CREDENTIAL_INVALID),
    "no typ": ({"alg": "EdDSA", "kid": ISSUER.kid}, VerificationFailure.CREDENTIAL_INVALID),
    "another typ": ({**GOOD, "typ": "at+jwt"}, VerificationFailure.CREDENTIAL_INVALID),
    "an unknown critical header": (
        {**GOOD, "crit": ["b64"]},
        VerificationFailure.CREDENTIAL_INVALID,
    ),
    "kid of another": ({**GOOD, "kid": HOLDER.kid}, VerificationFailure.CREDENTIAL_INVALID),
    "kid without fragment": ({**GOOD, "kid": ISSUER.did}, VerificationFailure.KEY_NOT_ALLOWED),
    "kid as fragment": ({**GOOD, "kid": "#0"}, VerificationFailure.KEY_NOT_ALLOWED),
    "kid with more": ({**GOOD, "kid": f"{ISSUER.kid}#x"}, VerificationFailure.KEY_NOT_ALLOWED),
    "kid of a method not read here": (
        {**GOOD, "kid": "did:web:127.0.0.1#0"},
        VerificationFailure.KEY_NOT_ALLOWED,
    ),
}


def test_forged_token_with_correct_header_is_accepted() -> None:
    assert credential.verify(forge(GOOD)).issuer == ISSUER.did


@pytest.mark.parametrize(("header", "expected"), HEADERS.values(), ids=HEADERS)
def test_credential_with_another_header_is_refused(
    header: dict[str, Any], expected: VerificationFailure
) -> None:
    assert refusal(forge(header)) is expected


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, bytes(65)])
def test_credential_without_a_signature_is_refused(signature: bytes) -> None:
    assert refusal(forge(GOOD, signature)) is VerificationFailure.CREDENTIAL_INVALID


def test_presentation_and_credential_are_not_interchangeable() -> None:
    presented = ISSUER.sign({"iss": ISSUER.did, "vp": {}})
    issued = credential.issue(DRAFT, ISSUER)

    assert refusal(presented) is VerificationFailure.CREDENTIAL_INVALID
    with pytest.raises(VerificationError, match="must have vp"):
        presentation.verify(issued)


def test_credential_is_valid_from_issuance_to_expiry() -> None:
    issued = credential.verify(credential.issue(DRAFT, ISSUER))

    issued.check_time(DRAFT.issued_at - 60)
    issued.check_time(DRAFT.expires_at - 1)
    with pytest.raises(VerificationError, match="NOT_YET_VALID"):
        issued.check_time(DRAFT.issued_at - 61)
    with pytest.raises(VerificationError, match="CREDENTIAL_EXPIRED"):
        issued.check_time(DRAFT.expires_at)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: jose.encode(raw) + ".."))
def test_verifiers_raise_only_verification_errors(text: str) -> None:
    for token in (text, f"{text}.{text}.{text}"):
        with pytest.raises(VerificationError):
            credential.verify(token)
        with pytest.raises(VerificationError):
            presentation.verify(token)
        assert presentation.claimed_nonce(token) is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_altered_byte_is_refused(at: int, flip: int) -> None:
    token = bytearray(credential.issue(DRAFT, HOLDER).encode())
    token[at % len(token)] ^= flip

    with pytest.raises(VerificationError):
        proof.verify(token.decode("latin-1"), Relationship.ASSERTION)
