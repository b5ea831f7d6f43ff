"""Credentials and proofs: issued ones verify, all others are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import jose
from services.web5 import credential, presentation, proof
from services.web5.credential import CONTEXT, TYPE, CredentialDraft
from services.web5.did import Method, Relationship
from services.web5.proof import VerificationError, VerificationFailure
from tests.web5.holder import credential_claims, signer

ABSENT = object()
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


def spell(**changes: Any) -> dict[str, Any]:
    """Returns the payload of a credential with these changes; ABSENT removes a member."""
    claims = credential_claims(ISSUER, HOLDER.did, **changes)
    claims["vc"] = {name: value for name, value in claims["vc"].items() if value is not ABSENT}
    return {name: value for name, value in claims.items() if value is not ABSENT}


def dated(nbf: object, date: object) -> dict[str, Any]:
    """Returns changes that give a credential this beginning, and no end."""
    return {"nbf": nbf, "exp": ABSENT, "vc": {"issuanceDate": date, "expirationDate": ABSENT}}


NEW_YEAR = 1_767_225_600
IN_CLAIMS_ONLY: dict[str, Any] = {
    "vc": {
        "id": ABSENT,
        "issuer": ABSENT,
        "issuanceDate": ABSENT,
        "expirationDate": ABSENT,
        "credentialSubject": {"level": 2},
    }
}
IN_VC_ONLY: dict[str, Any] = dict.fromkeys(("iss", "sub", "jti", "nbf", "exp"), ABSENT)

# Forms that VC Data Model 1.1, XML Schema and RFC 7519 allow. Libraries write many of them.
FORMS: dict[str, dict[str, Any]] = {
    "everything twice": {},
    "in the claims only": IN_CLAIMS_ONLY,
    "in vc only": IN_VC_ONLY,
    "id in vc only": {"jti": ABSENT},
    "id in jti only": {"vc": {"id": ABSENT}},
    "no id": {"jti": ABSENT, "vc": {"id": ABSENT}},
    "no end": {"exp": ABSENT, "vc": {"expirationDate": ABSENT}},
    "an end that is null": {"exp": ABSENT, "vc": {"expirationDate": None}},
    "an end in exp only": {"vc": {"expirationDate": ABSENT}},
    "an end in vc only": {"exp": ABSENT},
    "a beginning in nbf only": {"vc": {"issuanceDate": ABSENT}},
    "a beginning in vc only": {"nbf": ABSENT},
    "iat too": {"iat": NEW_YEAR + 0.5},
    "an issuer with a name": {"vc": {"issuer": {"id": ISSUER.did, "name": "Registry"}}},
    "an issuer with a name, id in iss": {"vc": {"issuer": {"name": "Registry"}}},
    "a list of one subject": {"vc": {"credentialSubject": [{"id": HOLDER.did}]}},
    "a date in milliseconds": dated(NEW_YEAR, "2026-01-01T00:00:00.262Z"),
    "a date in nanoseconds": dated(NEW_YEAR, "2026-01-01T00:00:00.999999999Z"),
    "a date with zero decimals": dated(NEW_YEAR, "2026-01-01T00:00:00.000Z"),
    "decimals in both": dated(NEW_YEAR + 0.262, "2026-01-01T00:00:00.262Z"),
    "decimals in nbf only": dated(NEW_YEAR + 0.262, ABSENT),
    "the members of vc beside it too": {
        "id": "urn:uuid:1",
        "issuer": {"id": ISSUER.did},
        "issuanceDate": "2026-01-01T00:00:00.262Z",
        "type": ["VerifiableCredential"],
    },
    "a whole number with a point": dated(float(NEW_YEAR), "2026-01-01T00:00:00Z"),
    "a date of another zone": dated(NEW_YEAR, "2026-01-01T05:45:00+05:45"),
    "the end of the day before": dated(NEW_YEAR, "2025-12-31T24:00:00Z"),
    "types in another order": {"vc": {"type": ["BiometricCredential", "VerifiableCredential"]}},
    "a type twice": {"vc": {"type": ["BiometricCredential", "VerifiableCredential"] * 2}},
}


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_every_form_of_the_standard_is_accepted(changes: dict[str, Any]) -> None:
    issued = credential.verify(ISSUER.sign(spell(**changes)))

    assert (issued.issuer, issued.subject) == (ISSUER.did, HOLDER.did)
    assert issued.types == ("BiometricCredential",)


@pytest.mark.parametrize("place", [{}, IN_CLAIMS_ONLY, IN_VC_ONLY], ids=["both", "claims", "vc"])
def test_times_are_the_same_wherever_they_stand(place: dict[str, Any]) -> None:
    written = credential_claims(ISSUER, HOLDER.did)

    issued = credential.verify(ISSUER.sign(spell(**place)))

    assert abs(issued.issued_at - written["nbf"]) <= 1
    assert issued.expires_at == issued.issued_at + 3600
    with pytest.raises(VerificationError, match="CREDENTIAL_EXPIRED"):
        issued.check_time(issued.issued_at + 3600)


@pytest.mark.parametrize("names", [TYPE, [TYPE], [TYPE, TYPE]], ids=str)
def test_credential_without_a_type_of_its_own_has_none(names: Any) -> None:
    assert credential.verify(ISSUER.sign(spell(vc={"type": names}))).types == ()


CLAIMS: dict[str, dict[str, Any]] = {
    "iss of another": {"iss": HOLDER.did},
    "iss of another, alone": {"iss": HOLDER.did, "vc": {"issuer": ABSENT}},
    "issuer of another": {"vc": {"issuer": HOLDER.did}},
    "issuer of another, alone": {"iss": ABSENT, "vc": {"issuer": HOLDER.did}},
    "issuer object of another": {"vc": {"issuer": {"id": HOLDER.did}}},
    "no issuer": {"iss": ABSENT, "vc": {"issuer": ABSENT}},
    "issuers in a list": {"vc": {"issuer": [ISSUER.did]}},
    "sub of another": {"sub": "did:key:z6Mkother"},
    "subject of another": {"vc": {"credentialSubject": {"id": "did:key:z6Mkother"}}},
    "a listed subject of another": {"vc": {"credentialSubject": [{"id": "did:key:z6Mkother"}]}},
    "no sub": {"sub": ABSENT, "vc": {"credentialSubject": {}}},
    "sub that is null": {"sub": None},
    "no subject": {"vc": {"credentialSubject": ABSENT}},
    "an empty list of subjects": {"vc": {"credentialSubject": []}},
    "two subjects": {"vc": {"credentialSubject": [{"id": HOLDER.did}, {"id": HOLDER.did}]}},
    "jti of another": {"jti": "urn:uuid:2"},
    "no beginning": {"nbf": ABSENT, "vc": {"issuanceDate": ABSENT}},
    "iat for a beginning": {"iat": NEW_YEAR, "nbf": ABSENT, "vc": {"issuanceDate": ABSENT}},
    "nbf that is null": {"nbf": None},
    "nbf before issuanceDate": {"nbf": 5},
    "nbf one second before": dated(NEW_YEAR - 1, "2026-01-01T00:00:00.262Z"),
    "nbf rounded up": dated(NEW_YEAR + 1, "2026-01-01T00:00:00.962Z"),
    "nbf with other decimals": dated(NEW_YEAR + 0.25, "2026-01-01T00:00:00.262Z"),
    "nbf with decimals that the date lacks": dated(NEW_YEAR + 0.25, "2026-01-01T00:00:00Z"),
    "the same digits in another zone": dated(NEW_YEAR, "2026-01-01T00:00:00+01:00"),
    "exp after expirationDate": {"exp": 253_402_300_799},
    "exp that is null": {"exp": None, "vc": {"expirationDate": ABSENT}},
    "issuanceDate without a zone": dated(NEW_YEAR, "2026-01-01T00:00:00"),
    "issuanceDate as a week date": dated(NEW_YEAR, "2026-W01-4T00:00:00Z"),
    "issuanceDate as a week date, alone": dated(ABSENT, "2026-W01-4T00:00:00Z"),
    "issuanceDate as a day": dated(ABSENT, "2026-01-01"),
    "issuanceDate with a space": dated(NEW_YEAR, "2026-01-01 00:00:00Z"),
    "issuanceDate that is none": {"vc": {"issuanceDate": "yesterday"}},
    "issuanceDate as a number": dated(NEW_YEAR, NEW_YEAR),
    "no context": {"vc": {"@context": []}},
    "a context as text": {"vc": {"@context": CONTEXT}},
    "another context first": {"vc": {"@context": ["https://www.w3.org/ns/credentials/v2"]}},
    "another type only": {"vc": {"type": ["BiometricCredential"]}},
    "another type as text": {"vc": {"type": "BiometricCredential"}},
    "no type": {"vc": {"type": []}},
    "types that are no texts": {"vc": {"type": ["VerifiableCredential", 1]}},
    "a type that is an object": {"vc": {"type": {"VerifiableCredential": 1}}},
    "too many types": {"vc": {"type": [TYPE, *map(str, range(16))]}},
    "a presentation too": {"vp": {}},
}


@pytest.mark.parametrize("changes", CLAIMS.values(), ids=CLAIMS)
def test_credential_with_contradicting_claims_is_refused(changes: dict[str, Any]) -> None:
    token = ISSUER.sign(spell(**changes))

    assert refusal(token) is VerificationFailure.CREDENTIAL_INVALID


def test_credential_with_a_status_is_refused() -> None:
    changes = {"vc": {"credentialStatus": {"type": "BitstringStatusListEntry"}}}
    token = ISSUER.sign(credential_claims(ISSUER, HOLDER.did, **changes))

    assert refusal(token) is VerificationFailure.CREDENTIAL_STATUS_UNSUPPORTED


def forge(
    header: dict[str, Any],
    signature: bytes | None = None,
    *,
    by: proof.Signer = ISSUER,
    **changes: Any,
) -> str:
    """Returns a credential of ISSUER with this header, signed with the key of ``by`` by default."""
    claims = json.dumps(spell(**changes)).encode()
    signed = f"{jose.encode(json.dumps(header).encode())}.{jose.encode(claims)}"
    signature = by.key.sign(signed.encode()) if signature is None else signature
    return f"{signed}.{jose.encode(signature)}"


GOOD = {"alg": "EdDSA", "kid": ISSUER.kid, "typ": "JWT"}
HEADERS: dict[str, tuple[dict[str, Any], VerificationFailure]] = {
    "alg none": ({**GOOD, "alg": "none"}, VerificationFailure.CREDENTIAL_INVALID),
    "no alg": ({"kid": ISSUER.kid, "typ": "JWT"}, VerificationFailure.CREDENTIAL_INVALID),
    "a MAC's alg": ({**GOOD, "alg": "HS256"}, VerificationFailure.CREDENTIAL_INVALID),
    "another curve's alg": ({**GOOD, "alg": "ES256K"}, VerificationFailure.CREDENTIAL_INVALID),
    "kid that is null": ({**GOOD, "kid": None}, VerificationFailure.CREDENTIAL_INVALID),
    "kid that is a number": ({**GOOD, "kid": 0}, VerificationFailure.CREDENTIAL_INVALID),
    "typ that is null": ({**GOOD, "typ": None}, VerificationFailure.CREDENTIAL_INVALID),
    "typ in a list": ({**GOOD, "typ": ["JWT"]}, VerificationFailure.CREDENTIAL_INVALID),
    "typ of a presentation": ({**GOOD, "typ": "vp+jwt"}, VerificationFailure.CREDENTIAL_INVALID),
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


NO_KID = {"alg": "EdDSA", "typ": "JWT"}
NO_TYP = {"alg": "EdDSA", "kid": ISSUER.kid}
BARE = {"alg": "EdDSA"}


@pytest.mark.parametrize("header", [NO_KID, NO_TYP, BARE], ids=["no kid", "no typ", "neither"])
@pytest.mark.parametrize("place", [{}, IN_CLAIMS_ONLY, IN_VC_ONLY], ids=["both", "claims", "vc"])
def test_header_may_omit_kid_and_typ(header: dict[str, Any], place: dict[str, Any]) -> None:
    issued = credential.verify(forge(header, **place))

    assert issued.issuer == ISSUER.did
    assert issued.has_typ == ("typ" in header)


@pytest.mark.parametrize(
    ("header", "changes", "expected"),
    [
        ({"alg": "none"}, {}, VerificationFailure.CREDENTIAL_INVALID),
        ({"alg": "HS256"}, {}, VerificationFailure.CREDENTIAL_INVALID),
        ({"alg": "ES256K"}, {}, VerificationFailure.CREDENTIAL_INVALID),
        ({}, {}, VerificationFailure.CREDENTIAL_INVALID),
        (BARE, {"iss": HOLDER.did}, VerificationFailure.CREDENTIAL_INVALID),
        (
            BARE,
            {"iss": HOLDER.did, "vc": {"issuer": ABSENT}},
            VerificationFailure.CREDENTIAL_INVALID,
        ),
        (
            BARE,
            {"iss": "did:web:127.0.0.1", "vc": {"issuer": ABSENT}},
            VerificationFailure.KEY_NOT_ALLOWED,
        ),
        (BARE, {"iss": "no did", "vc": {"issuer": ABSENT}}, VerificationFailure.KEY_NOT_ALLOWED),
    ],
    ids=[
        "alg none",
        "alg HS256",
        "alg of another key",
        "no alg",
        "iss is not the issuer",
        "iss of another did",
        "iss of an unreachable did",
        "iss is no did",
    ],
)
def test_credential_without_kid_is_the_issuers_or_refused(
    header: dict[str, Any], changes: dict[str, Any], expected: VerificationFailure
) -> None:
    assert refusal(forge(header, **changes)) is expected


def test_credential_without_kid_that_another_signed_is_refused() -> None:
    other = signer(jose.Ed25519Key.from_secret(b"\3" * 32))

    assert refusal(forge(BARE, by=other)) is VerificationFailure.CREDENTIAL_INVALID


def test_claim_that_stands_twice_is_refused() -> None:
    payload = json.dumps(spell()).replace('"nbf":', '"nbf": 1, "nbf":', 1).encode()
    token = jose.sign(payload, ISSUER.key, {"kid": ISSUER.kid, "typ": "JWT"})

    assert refusal(token) is VerificationFailure.CREDENTIAL_INVALID


@pytest.mark.parametrize("header", [NO_KID, NO_TYP, BARE], ids=["no kid", "no typ", "neither"])
def test_presentation_must_have_kid_and_typ(header: dict[str, Any]) -> None:
    claims = json.dumps({"iss": ISSUER.did, "vp": {}}).encode()
    signed = f"{jose.encode(json.dumps(header).encode())}.{jose.encode(claims)}"
    token = f"{signed}.{jose.encode(ISSUER.key.sign(signed.encode()))}"

    with pytest.raises(VerificationError, match="the header must have kid, and typ"):
        presentation.verify(token)


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
