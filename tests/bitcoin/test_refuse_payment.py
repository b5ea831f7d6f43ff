"""Refusals of SendPayment, which change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import BadRequest

from formats.money import MAX_SAT
from mesh.config import TRUST_FILE
from mesh.security.attestation import payment_digest
from mesh.security.trust import PolicyError
from mesh.testing import detail, reason
from services.bitcoin.__main__ import bitcoin
from tests.bitcoin.funded_mesh import (
    RECIPIENT,
    FundedMesh,
    config,
    new_payment_id,
    open_funded_mesh,
)
from tests.mesh.security.forged_attestation import forge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anya.bitcoin.v1 import wallet_pb2 as pb
    from anya.mesh.v1.attestation_pb2 import Attestation
    from mesh.testing import Authority

ACCEPTED = {"score": 0.1, "decision": "accept"}
MAINNET = "bc1q9vza2e8x573nczrlzms0wvx3gsqjx7vavgkx0l"

# One service for all tests: each test checks that it has changed nothing.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FundedMesh]:
    async with open_funded_mesh(
        config(authority, tmp_path_factory.mktemp("home")), authority
    ) as people:
        yield people


async def refused(payer: FundedMesh, request: pb.SendPaymentRequest) -> grpc.aio.AioRpcError:
    """Returns the refusal of a payment, and checks that it has changed nothing."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(request)
    assert await payer.waiting() == []
    assert await payer.events("bitcoin.payment.") == []
    return refusal.value


async def test_only_coins_of_the_sender_address_are_spent(payer: FundedMesh) -> None:
    other = await payer.derive()

    refusal = await refused(payer, payer.payment_request(sender_address=other))

    assert reason(refusal) == "INSUFFICIENT_FUNDS"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"amount_sat": 0}, "amount_sat", id="nothing"),
        pytest.param({"amount_sat": -5}, "amount_sat", id="less than nothing"),
        pytest.param({"amount_sat": 293}, "amount_sat", id="dust"),
        pytest.param({"amount_sat": MAX_SAT + 1}, "amount_sat", id="above 21 million"),
        pytest.param({"recipient_address": MAINNET}, "to_address", id="recipient on main"),
        pytest.param({"recipient_address": "nonsense"}, "to_address", id="no address"),
        pytest.param({"sender_address": MAINNET}, "from_address", id="sender on main"),
        pytest.param({"sender_address": "nonsense"}, "from_address", id="no sender"),
        pytest.param(
            {"payment_id": "0192f0c1-7d5e-4cc3-98c4-dc0c0c07398f"}, "request_id", id="no UUIDv7"
        ),
    ],
)
async def test_refusal_names_the_invalid_field(
    payer: FundedMesh, changes: dict[str, Any], field: str
) -> None:
    refusal = await refused(payer, payer.payment_request(**changes))

    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = detail(refusal, BadRequest).field_violations
    assert [violation.field for violation in violations] == [field]


async def test_sender_address_outside_managed_wallets_is_refused(payer: FundedMesh) -> None:
    refusal = await refused(payer, payer.payment_request(sender_address=RECIPIENT))

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == "SENDER_NOT_MANAGED"


async def test_fee_above_the_payers_limit_is_refused(payer: FundedMesh) -> None:
    request = payer.payment_request()
    request.max_fee_sat = 10

    assert reason(await refused(payer, request)) == "FEE_TOO_HIGH"


async def test_amount_above_the_grant_is_refused(payer: FundedMesh) -> None:
    refusal = await refused(payer, payer.payment_request(amount_sat=1_000_000_001))

    assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason(refusal) == "AMOUNT_LIMIT_EXCEEDED"


@pytest.mark.parametrize("missing", ["identity", "address_link", "risk"])
async def test_every_required_attestation_must_be_present(payer: FundedMesh, missing: str) -> None:
    request = payer.payment_request()
    kept = [proof for proof in request.context.attestations if proof.kind != missing]
    del request.context.attestations[:]
    request.context.attestations.extend(kept)

    assert reason(await refused(payer, request)) == "PROOF_MISSING"


async def test_request_without_an_intent_is_refused(payer: FundedMesh) -> None:
    request = payer.payment_request()
    request.context.ClearField("intent")

    assert reason(await refused(payer, request)) == "PROOF_MISSING"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to_address", "bcrt1p8wpt9v4frpf3tkn0srd97pksgsxc5hs52lafxwru9kgeephvs7rqjeprhg"),
        ("amount_sat", 2_000_000),
        pytest.param("request_id", new_payment_id(), id="request_id"),
    ],
)
async def test_proofs_of_another_payment_are_refused(
    payer: FundedMesh, field: str, value: str | int
) -> None:
    request = payer.payment_request()
    setattr(request, field, value)

    refusal = await refused(payer, request)

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == "PROOF_INVALID"


async def test_attestations_of_another_payment_are_refused(payer: FundedMesh) -> None:
    request, other = payer.payment_request(), payer.payment_request(amount_sat=2_000_000)
    del request.context.attestations[:]
    request.context.attestations.extend(other.context.attestations)

    assert reason(await refused(payer, request)) == "PROOF_INVALID"


async def test_service_cannot_attest_for_another_service(payer: FundedMesh) -> None:
    request = payer.payment_request()
    digest = payment_digest(request.context.intent)
    forged = payer.attestors["web5"].attest("risk", digest, values=ACCEPTED)

    assert reason(await refused(payer, with_proof(request, forged))) == "PROOF_INVALID"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        pytest.param({"score": 0.7, "decision": "accept"}, True, id="at the limit"),
        pytest.param({"score": 0.99, "decision": "accept"}, True, id="over the limit"),
        pytest.param({"score": 0.998, "decision": "refuse"}, True, id="a refusal by the model"),
        pytest.param({"score": 0.1, "decision": "refuse"}, True, id="a refusal by a rule"),
        pytest.param({"score": 0.1, "decision": "review"}, True, id="a review"),
        pytest.param({"score": 0.1}, True, id="no decision"),
        pytest.param({"decision": "accept"}, True, id="no score"),
        pytest.param({}, True, id="no value"),
        pytest.param({"score": "0.1", "decision": "accept"}, True, id="a text for a score"),
        pytest.param(ACCEPTED, False, id="a negative verdict"),
        pytest.param({**ACCEPTED, "degraded": True}, True, id="degraded"),
    ],
)
async def test_risk_that_is_not_accepted_is_refused_whatever_its_verdict_says(
    payer: FundedMesh, authority: Authority, values: dict[str, Any], verdict: bool
) -> None:
    request = payer.payment_request()
    digest = payment_digest(request.context.intent)
    forged = forge(authority.issue_service("ml"), "risk", digest, values=values, verdict=verdict)

    refusal = await refused(payer, with_proof(request, forged))

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == "RISK_TOO_HIGH"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"confidence": 1.0, "assurance": "low"}, id="too low"),
        pytest.param({"confidence": 1.0, "assurance": "none"}, id="no level"),
        pytest.param({"confidence": 1.0, "assurance": 3}, id="a number"),
        pytest.param({"confidence": 1.0}, id="missing"),
    ],
)
async def test_identity_below_the_least_assurance_is_refused(
    payer: FundedMesh, values: dict[str, Any]
) -> None:
    request = payer.payment_request()
    digest = payment_digest(request.context.intent)
    identity = payer.attestors["web5"].attest("identity", digest, values=values)

    refusal = await refused(payer, with_proof(request, identity))

    assert reason(refusal) == "PROOF_INVALID"
    assert "demands substantial at least" in str(refusal.details())


def with_proof(request: pb.SendPaymentRequest, proof: Attestation) -> pb.SendPaymentRequest:
    """Replaces the attestation of the same kind."""
    kept = [held for held in request.context.attestations if held.kind != proof.kind]
    del request.context.attestations[:]
    request.context.attestations.extend([*kept, proof])
    return request


async def test_expired_attestation_is_refused(payer: FundedMesh) -> None:
    request = payer.payment_request()
    digest = payment_digest(request.context.intent)
    risk = payer.attestors["ml"].attest("risk", digest, values=ACCEPTED, lifetime=-1)

    assert reason(await refused(payer, with_proof(request, risk))) == "PROOF_EXPIRED"


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("", id="no condition"),
        pytest.param('        condition: "true"\n', id="a condition that is always true"),
        pytest.param(
            '        condition: "attestation.risk.score < 0.7"\n', id="a score without a decision"
        ),
    ],
)
async def test_service_does_not_start_with_a_policy_that_could_pay_a_refused_risk(
    authority: Authority, tmp_path: Path, condition: str
) -> None:
    lines = TRUST_FILE.read_text().splitlines(keepends=True)
    trust = tmp_path / "trust.yaml"
    trust.write_text(
        "".join(condition if line.lstrip().startswith("condition:") else line for line in lines)
    )
    settings = config(authority, tmp_path)
    lax = replace(settings, mesh=replace(settings.mesh, trust_file=trust))

    with pytest.raises(PolicyError, match="SendPayment"):
        async with bitcoin(lax):
            pass


async def test_only_the_orchestrator_may_send_payments(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.wallet.SendPayment(payer.payment_request())

    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
