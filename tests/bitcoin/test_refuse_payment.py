"""Refusals of SendPayment, which change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import BadRequest

from formats.money import MAX_SAT
from mesh.security.attestation import payment_digest
from mesh.testing import detail, reason
from tests.bitcoin.funded_mesh import (
    RECIPIENT,
    FundedMesh,
    config,
    new_payment_id,
    open_funded_mesh,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anya.bitcoin.v1 import wallet_pb2 as pb
    from mesh.testing import Authority

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
    forged = payer.attestors["web5"].attest("risk", digest, values={"score": 0.0})
    kept = [proof for proof in request.context.attestations if proof.kind != "risk"]
    del request.context.attestations[:]
    request.context.attestations.extend([*kept, forged])

    assert reason(await refused(payer, request)) == "PROOF_INVALID"


@pytest.mark.parametrize(
    ("values", "verdict", "expected"),
    [
        pytest.param({"score": 0.7}, True, "RISK_TOO_HIGH", id="at the limit"),
        pytest.param({"score": 0.99}, True, "RISK_TOO_HIGH", id="over the limit"),
        pytest.param({}, True, "RISK_TOO_HIGH", id="no score"),
        pytest.param({"score": "0.1"}, True, "RISK_TOO_HIGH", id="a text for a score"),
        pytest.param({"score": 0.1}, False, "PROOF_INVALID", id="a negative verdict"),
        pytest.param({"score": 0.1, "degraded": True}, True, "PROOF_INVALID", id="degraded"),
    ],
)
async def test_risk_is_checked_against_bitcoins_own_limit(
    payer: FundedMesh, values: dict[str, Any], verdict: bool, expected: str
) -> None:
    request = payer.payment_request()
    digest = payment_digest(request.context.intent)
    kept = [proof for proof in request.context.attestations if proof.kind != "risk"]
    risk = payer.attestors["ml"].attest("risk", digest, values=values, verdict=verdict)
    del request.context.attestations[:]
    request.context.attestations.extend([*kept, risk])

    refusal = await refused(payer, request)

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == expected


async def test_expired_attestation_is_refused(payer: FundedMesh) -> None:
    request = payer.payment_request()
    digest = payment_digest(request.context.intent)
    kept = [proof for proof in request.context.attestations if proof.kind != "risk"]
    risk = payer.attestors["ml"].attest("risk", digest, values={"score": 0.1}, lifetime=-1)
    del request.context.attestations[:]
    request.context.attestations.extend([*kept, risk])

    assert reason(await refused(payer, request)) == "PROOF_EXPIRED"


async def test_only_the_orchestrator_may_send_payments(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.wallet.SendPayment(payer.payment_request())

    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
