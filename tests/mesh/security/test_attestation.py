"""Attestations: a forged, altered, expired or misused one is refused."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anya.mesh.v1 import attestation_pb2 as pb
from formats import jose
from mesh.clock import ManualClock, SystemClock
from mesh.errors import FailedPrecondition, InvalidArgument, Reason
from mesh.security.attestation import (
    MAX_LIFETIME_S,
    TYPE,
    Attestor,
    Verifier,
    payment_digest,
)
from mesh.security.svid import read_svid
from mesh.testing import Authority
from tests.json_values import HUGE, JSON
from tests.mesh.security.forged_attestation import forge

if TYPE_CHECKING:
    from collections.abc import Callable

    Sign = Callable[..., pb.Attestation]

DIGEST = bytes(range(32))
VALUES = {"score": 0.25, "decision": "accept"}
REFUSED = {"score": 0.998, "decision": "refuse"}
SERVICE = "spiffe://anya.internal/ns/anya/sa/"


def intent(**changes: object) -> pb.PaymentIntent:
    fields: dict[str, object] = {
        "network": "regtest",
        "payment_id": "0197f0a0-0000-7000-8000-000000000001",
        "sender_did": "did:jwk:abc",
        "sender_address": "bcrt1qsender",
        "recipient_address": "bcrt1qrecipient",
        "amount_sat": 50_000,
    }
    return pb.PaymentIntent(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().wall())


@pytest.fixture
def ml(authority: Authority, clock: ManualClock) -> Attestor:
    return Attestor(authority.issue(f"{SERVICE}ml"), clock=clock)


@pytest.fixture
def verifier(authority: Authority, clock: ManualClock) -> Verifier:
    ca = authority.issue(f"{SERVICE}bitcoin").ca
    return Verifier(ca, "anya.internal", clock=clock)


def refused(verifier: Verifier, attestation: pb.Attestation, kind: str = "risk") -> Reason | None:
    with pytest.raises(FailedPrecondition) as refusal:
        verifier.verify(attestation, kind, DIGEST)
    return refusal.value.reason


def test_verified_attestation_has_the_attested_values(ml: Attestor, verifier: Verifier) -> None:
    verified = verifier.verify(ml.attest("risk", DIGEST, values=VALUES), "risk", DIGEST)

    assert verified.values == VALUES
    assert verified.issuer == f"{SERVICE}ml"
    assert (verified.expires_at - verified.issued_at).total_seconds() == MAX_LIFETIME_S


def test_lifetime_of_the_attestor_limits_its_attestations(
    authority: Authority, clock: ManualClock, verifier: Verifier
) -> None:
    brief = Attestor(authority.issue(f"{SERVICE}ml"), clock=clock, lifetime=3)
    attestation = brief.attest("risk", DIGEST, values=VALUES)
    clock.advance(4)

    assert refused(verifier, attestation) is Reason.PROOF_EXPIRED


def test_attestation_of_another_payment_is_refused(ml: Attestor, verifier: Verifier) -> None:
    attestation = ml.attest("risk", bytes(32), values=VALUES)

    assert refused(verifier, attestation) is Reason.PROOF_INVALID


def test_kind_from_another_issuer_is_refused(ml: Attestor, verifier: Verifier) -> None:
    attestation = ml.attest("identity", DIGEST, values={})

    assert refused(verifier, attestation, "identity") is Reason.PROOF_INVALID


def test_attestation_of_another_kind_is_refused(authority: Authority, verifier: Verifier) -> None:
    web5 = Attestor(authority.issue(f"{SERVICE}web5"))
    attestation = web5.attest("identity", DIGEST, values={})
    attestation.kind = "address_link"

    assert refused(verifier, attestation, "address_link") is Reason.PROOF_INVALID


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="no value"),
        pytest.param({"score": 0.1}, id="no decision"),
        pytest.param({"decision": "accept"}, id="no score"),
        pytest.param({"score": None, "decision": "accept"}, id="a score that is null"),
        pytest.param({"score": "0.1", "decision": "accept"}, id="a text for a score"),
        pytest.param({"score": True, "decision": "accept"}, id="a boolean for a score"),
        pytest.param({"score": -0.1, "decision": "accept"}, id="a score below 0"),
        pytest.param({"score": 1.1, "decision": "accept"}, id="a score above 1"),
        pytest.param({"score": 0.1, "decision": "ACCEPT"}, id="another spelling"),
        pytest.param({"score": 0.1, "decision": "review"}, id="a review"),
        pytest.param({"score": 0.1, "decision": "refuse"}, id="a refusal at a low score"),
        pytest.param({**VALUES, "degraded": True}, id="degraded"),
        pytest.param(REFUSED, id="a refusal"),
    ],
)
def test_risk_without_the_decision_to_accept_refuses_in_verdict_and_at_the_verifier(
    authority: Authority, ml: Attestor, verifier: Verifier, values: dict[str, Any]
) -> None:
    honest = ml.attest("risk", DIGEST, values=values)
    forged = forge(authority.issue_service("ml"), "risk", DIGEST, values=values, verdict=True)

    assert json.loads(jose.parse(honest.jws).payload)["verdict"] is False
    assert refused(verifier, honest) is Reason.RISK_TOO_HIGH
    assert refused(verifier, forged) is Reason.RISK_TOO_HIGH


def test_negative_verdict_refuses_whatever_the_values_say(
    authority: Authority, verifier: Verifier
) -> None:
    forged = forge(authority.issue_service("ml"), "risk", DIGEST, values=VALUES, verdict=False)

    assert refused(verifier, forged) is Reason.RISK_TOO_HIGH


def test_refusal_shows_decision_and_score_and_no_other_text(
    ml: Attestor, verifier: Verifier
) -> None:
    values = REFUSED | {"did": "did:key:z6MkAda"}

    with pytest.raises(FailedPrecondition) as refusal:
        verifier.verify(ml.attest("risk", DIGEST, values=values), "risk", DIGEST)

    assert "(decision = refuse, score = 0.998)" in str(refusal.value)
    assert "z6MkAda" not in str(refusal.value)


def test_expired_attestation_is_refused(
    ml: Attestor, verifier: Verifier, clock: ManualClock
) -> None:
    attestation = ml.attest("risk", DIGEST, values=VALUES)
    verifier.verify(attestation, "risk", DIGEST)

    clock.advance(MAX_LIFETIME_S)

    assert refused(verifier, attestation) is Reason.PROOF_EXPIRED


def test_certificate_of_another_ca_is_refused(
    tmp_path_factory: pytest.TempPathFactory, verifier: Verifier
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    attestation = Attestor(stranger.issue(f"{SERVICE}ml")).attest("risk", DIGEST, values=VALUES)

    assert refused(verifier, attestation) is Reason.PROOF_INVALID


def test_altered_values_are_refused(ml: Attestor, verifier: Verifier) -> None:
    header, payload, signature = ml.attest("risk", DIGEST, values=VALUES).jws.split(".")
    claims = json.loads(jose.decode(payload))
    claims["values"]["score"] = 0.0
    forged = jose.encode(json.dumps(claims).encode())

    attestation = pb.Attestation(kind="risk", jws=f"{header}.{forged}.{signature}")

    assert refused(verifier, attestation) is Reason.PROOF_INVALID


@pytest.mark.parametrize("jws", ["", "a.b.c", "....", "e30.e30.", "x" * 70_000])
def test_malformed_attestation_is_refused(verifier: Verifier, jws: str) -> None:
    assert refused(verifier, pb.Attestation(kind="risk", jws=jws)) is Reason.PROOF_INVALID


@pytest.fixture
def sign(authority: Authority, clock: ManualClock) -> Sign:
    """Signs any claims and header as the ml service: what a compromised service may sign."""
    svid = read_svid(authority.issue(f"{SERVICE}ml"))
    key = jose.P256Key.from_secret(svid.key.private_numbers().private_value.to_bytes(32))
    x5c = [base64.b64encode(part.public_bytes(Encoding.DER)).decode() for part in svid.chain]
    now = int(clock.wall())

    def make(header: dict[str, Any] | None = None, **changes: Any) -> pb.Attestation:
        claims: dict[str, Any] = {
            "iss": f"{SERVICE}ml",
            "kind": "risk",
            "digest": DIGEST.hex(),
            "verdict": True,
            "values": VALUES,
            "iat": now,
            "exp": now + 60,
        }
        payload = json.dumps(claims | changes).encode()
        signed_header = {"typ": TYPE, "x5c": x5c} | (header or {})
        return pb.Attestation(kind="risk", jws=jose.sign(payload, key, signed_header))

    return make


WRONG: list[Any] = [None, False, 0.5, -1, HUGE, "", "nan", "1e9", [], [[]], {}, {"a": 1}]


@pytest.mark.parametrize("claim", ["iss", "kind", "digest", "verdict", "iat", "exp"])
def test_claim_of_a_wrong_type_is_refused(verifier: Verifier, sign: Sign, claim: str) -> None:
    verifier.verify(sign(), "risk", DIGEST)
    for value in WRONG:
        if claim != "verdict" or value is not False:  # False is a verdict
            assert refused(verifier, sign(**{claim: value})) is Reason.PROOF_INVALID


@pytest.mark.parametrize("value", ["nan", HUGE, True, 1e300, [1]], ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("claim", ["iat", "exp"])
def test_time_of_a_wrong_type_is_named(
    verifier: Verifier, sign: Sign, claim: str, value: Any
) -> None:
    with pytest.raises(FailedPrecondition, match=f"{claim} must be a time in whole Unix seconds"):
        verifier.verify(sign(**{claim: value}), "risk", DIGEST)


@pytest.mark.parametrize(
    "values", [None, [], "x", {"score": HUGE}, {"score": [2**53]}, {"score": {"a": -HUGE}}], ids=str
)
def test_values_that_no_reader_holds_exactly_are_refused(
    verifier: Verifier, sign: Sign, values: Any
) -> None:
    assert refused(verifier, sign(values=values)) is Reason.PROOF_INVALID


@pytest.mark.parametrize("member", ["typ", "x5c"])
def test_header_of_a_wrong_type_is_refused(verifier: Verifier, sign: Sign, member: str) -> None:
    for value in [*WRONG, "e30", ["e30"], [1], [{}], ["é"], ["e30"] * 5]:
        assert refused(verifier, sign({member: value})) is Reason.PROOF_INVALID


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(claim=st.sampled_from(["iss", "kind", "digest", "values", "iat", "exp", "x"]), value=JSON)
def test_verifier_accepts_or_refuses_any_claim(
    verifier: Verifier, sign: Sign, claim: str, value: Any
) -> None:
    try:
        verified = verifier.verify(sign(**{claim: value}), "risk", DIGEST)
    except FailedPrecondition:
        return
    assert claim in ("values", "iat", "exp")
    assert verified.digest == DIGEST


def test_missing_kind_is_named(ml: Attestor, verifier: Verifier) -> None:
    with pytest.raises(FailedPrecondition, match="address_link") as refusal:
        verifier.require(
            [ml.attest("risk", DIGEST, values=VALUES)], ["risk", "address_link"], DIGEST
        )

    assert refusal.value.reason is Reason.PROOF_MISSING


def test_invalid_older_attestation_does_not_hide_a_newer_one(
    ml: Attestor, verifier: Verifier
) -> None:
    both = [ml.attest("risk", bytes(32), values={}), ml.attest("risk", DIGEST, values=VALUES)]

    assert verifier.require(both, ["risk"], DIGEST)["risk"].values == VALUES


def test_newer_negative_verdict_overrides_an_older_positive_one(
    ml: Attestor, verifier: Verifier
) -> None:
    both = [
        ml.attest("risk", DIGEST, values=VALUES),
        ml.attest("risk", DIGEST, values=REFUSED),
    ]

    with pytest.raises(FailedPrecondition, match="negative"):
        verifier.require(both, ["risk"], DIGEST)


@pytest.mark.parametrize(
    "change",
    [
        {"network": "main"},
        {"payment_id": "0197f0a0-0000-7000-8000-000000000002"},
        {"sender_did": "did:jwk:abd"},
        {"sender_address": "bcrt1qrecipient"},
        {"recipient_address": "bcrt1qsender"},
        {"amount_sat": 50_001},
    ],
)
def test_every_field_is_part_of_the_digest(change: dict[str, object]) -> None:
    assert payment_digest(intent(**change)) != payment_digest(intent())


def test_digest_is_the_hash_of_the_canonical_json() -> None:
    assert payment_digest(intent()).hex() == (
        "43c0a7004b75d427cfcb20d3bd5a5ceded41283df7281eb07f68955d44c52e8d"
    )


@pytest.mark.parametrize(
    "change",
    [{"amount_sat": 0}, {"amount_sat": -1}, {"amount_sat": 2_100_000_000_000_001}, {"network": ""}],
)
def test_incomplete_intent_has_no_digest(change: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        payment_digest(intent(**change))

    assert refusal.value.reason is Reason.INTENT_INVALID


def test_attestor_signs_with_a_renewed_certificate(authority: Authority) -> None:
    identity, renewed = (authority.issue(f"{SERVICE}ml") for _ in range(2))
    attestor = Attestor(identity)
    before = attestor.attest("risk", DIGEST, values=VALUES)

    identity.certificate.write_bytes(renewed.certificate.read_bytes())
    halfway = attestor.attest("risk", DIGEST, values=VALUES)
    renewed.key.rename(identity.key)
    after = attestor.attest("risk", DIGEST, values=VALUES)

    chains = [jose.parse(each.jws).header["x5c"] for each in (before, halfway, after)]
    assert chains[0] == chains[1] != chains[2]
    assert Verifier(identity.ca, "anya.internal").verify(after, "risk", DIGEST).verdict
