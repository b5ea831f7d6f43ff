"""SendPayment through the wire: once, with proof, on a real chain, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1 import wallet_pb2 as pb
from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from mesh.attestation import payment_digest
from mesh.testing import Authority, detail, reason
from tests.bitcoin.town import (
    COINBASE_SAT,
    RECIPIENT,
    Town,
    config,
    new_payment_id,
    running,
    town,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAINNET = "bc1q9vza2e8x573nczrlzms0wvx3gsqjx7vavgkx0l"


@pytest.fixture
async def payer(authority: Authority, tmp_path: Path) -> AsyncIterator[Town]:
    async with town(config(authority, tmp_path), authority) as people:
        yield people


async def refused(payer: Town, order: pb.SendPaymentRequest) -> grpc.aio.AioRpcError:
    """The refusal of an order, which leaves nothing behind."""
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(order)
    assert await payer.waiting() == []
    assert await payer.events("bitcoin.payment.") == []
    return refusal.value


async def test_a_proven_payment_pays_the_recipient_and_returns_the_rest(payer: Town) -> None:
    order = payer.order(amount_sat=1_000_000)

    sent = await payer.spender.SendPayment(order)

    await payer.mine()
    utxos = await payer.chain.ListUtxos(chain_pb2.ListUtxosRequest(address=RECIPIENT))
    balance = await payer.wallet.GetBalance(pb.GetBalanceRequest(wallet_id=payer.wallet_id))
    assert sent.payment_id == order.request_id
    assert sent.status == pb.PAYMENT_STATUS_SUCCESS
    assert [(utxo.txid, utxo.amount_sat) for utxo in utxos.utxos] == [(sent.txid, 1_000_000)]
    assert balance.confirmed_sat == COINBASE_SAT - 1_000_000 - sent.fee_sat


async def test_the_whole_service_pays_on_postgresql(
    authority: Authority, tmp_path: Path, new_postgres_database: str
) -> None:
    settings = config(authority, tmp_path, database=new_postgres_database)
    async with town(settings, authority) as people:
        order = people.order()
        sent = await people.spender.SendPayment(order)
        await people.mine()

        await people.reaches(order.request_id, "CONFIRMED")
        assert (await people.spender.SendPayment(order)).txid == sent.txid


async def test_the_events_of_a_payment_name_the_trace_that_made_it(
    authority: Authority, tmp_path: Path
) -> None:
    settings = config(authority, tmp_path)
    traced = replace(settings, mesh=replace(settings.mesh, sample_ratio=1.0))
    async with town(traced, authority) as people:
        await people.spender.SendPayment(people.order())
        await people.mine()

        page = await OutboxServiceStub(people.orchestrator).ReadOutbox(
            ReadOutboxRequest(page_size=1000)
        )
    traces = {
        entry.event.attributes["traceparent"].ce_string
        for entry in page.entries
        if entry.event.type.startswith("bitcoin.payment.")
    }
    assert len(traces) == 1
    assert len(traces.pop()) == 55


async def test_change_does_not_return_to_the_sender_address(payer: Town) -> None:
    await payer.spender.SendPayment(payer.order())
    await payer.mine()

    address = await payer.wallet.GetBalance(
        pb.GetBalanceRequest(wallet_id=payer.wallet_id, address=payer.address)
    )

    assert address.confirmed_sat == 0


async def test_only_coins_of_the_sender_address_are_spent(payer: Town) -> None:
    other = await payer.derive()

    refusal = await refused(payer, payer.order(sender_address=other))

    assert reason(refusal) == "INSUFFICIENT_FUNDS"


async def test_a_retry_pays_nothing_more_and_gets_the_same_answer(payer: Town) -> None:
    order = payer.order()

    first = await payer.spender.SendPayment(order)
    second = await payer.spender.SendPayment(order)

    assert second == first
    assert await payer.waiting() == [first.txid]


async def test_attempts_that_race_make_one_payment(payer: Town) -> None:
    order = payer.order()

    replies = await asyncio.gather(*(payer.spender.SendPayment(order) for _ in range(8)))

    assert {reply.txid for reply in replies} == {replies[0].txid}
    assert await payer.waiting() == [replies[0].txid]


async def test_a_retry_is_not_judged_again_though_its_proofs_hold_no_more(
    authority: Authority, tmp_path: Path
) -> None:
    async with town(config(authority, tmp_path), authority) as people:
        order = people.order()
        first = await people.spender.SendPayment(order)

    stranger = Authority(tmp_path)  # nobody believes the attestations any more
    async with running(config(stranger, tmp_path), stranger) as people:
        second = await people.spender.SendPayment(order)

    assert second.txid == first.txid


async def test_the_same_id_for_another_payment_is_refused(payer: Town) -> None:
    order = payer.order()
    await payer.spender.SendPayment(order)
    other = payer.order(payment_id=order.request_id, amount_sat=2_000_000)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(other)

    assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason(refusal.value) == "REQUEST_ID_REUSED"


async def test_payments_at_once_never_share_a_coin(authority: Authority, tmp_path: Path) -> None:
    async with town(config(authority, tmp_path), authority, coins=4) as people:
        orders = [people.order() for _ in range(4)]

        await asyncio.gather(*map(people.spender.SendPayment, orders))

        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await people.spender.SendPayment(people.order())
        assert len(await people.waiting()) == 4
        assert reason(refusal.value) == "INSUFFICIENT_FUNDS"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"amount_sat": 0}, "amount_sat", id="nothing"),
        pytest.param({"amount_sat": -5}, "amount_sat", id="less than nothing"),
        pytest.param({"amount_sat": 293}, "amount_sat", id="dust"),
        pytest.param({"amount_sat": 21_000_000 * 10**8 + 1}, "amount_sat", id="above 21 million"),
        pytest.param({"recipient_address": MAINNET}, "to_address", id="recipient on main"),
        pytest.param({"recipient_address": "nonsense"}, "to_address", id="no address"),
        pytest.param({"sender_address": MAINNET}, "from_address", id="sender on main"),
        pytest.param({"sender_address": "nonsense"}, "from_address", id="no sender"),
        pytest.param(
            {"payment_id": "0192f0c1-7d5e-4cc3-98c4-dc0c0c07398f"}, "request_id", id="no UUIDv7"
        ),
    ],
)
async def test_a_field_that_cannot_be_paid_is_named(
    payer: Town, changes: dict[str, Any], field: str
) -> None:
    refusal = await refused(payer, payer.order(**changes))

    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = detail(refusal, BadRequest).field_violations
    assert [violation.field for violation in violations] == [field]


async def test_an_amount_above_the_balance_is_refused(payer: Town) -> None:
    other = await payer.derive()
    await payer.spender.SendPayment(payer.order(recipient_address=other, amount_sat=1_000_000))
    await payer.mine()

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(payer.order(sender_address=other, amount_sat=1_000_000))

    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal.value) == "INSUFFICIENT_FUNDS"


async def test_an_address_that_no_wallet_of_ours_holds_is_refused(payer: Town) -> None:
    refusal = await refused(payer, payer.order(sender_address=RECIPIENT))

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == "SENDER_UNKNOWN"


async def test_a_fee_above_what_the_payer_allows_is_refused(payer: Town) -> None:
    order = payer.order()
    order.max_fee_sat = 10

    assert reason(await refused(payer, order)) == "FEE_TOO_HIGH"


async def test_an_amount_above_the_boundary_s_bound_is_refused(payer: Town) -> None:
    refusal = await refused(payer, payer.order(amount_sat=1_000_000_001))

    assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED
    assert reason(refusal) == "AMOUNT_NOT_GRANTED"


@pytest.mark.parametrize("missing", ["identity", "address_link", "risk"])
async def test_every_required_attestation_must_come_along(payer: Town, missing: str) -> None:
    order = payer.order()
    kept = [proof for proof in order.context.attestations if proof.kind != missing]
    del order.context.attestations[:]
    order.context.attestations.extend(kept)

    assert reason(await refused(payer, order)) == "PROOF_MISSING"


async def test_a_request_without_an_intent_is_refused(payer: Town) -> None:
    order = payer.order()
    order.context.ClearField("intent")

    assert reason(await refused(payer, order)) == "PROOF_MISSING"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to_address", "bcrt1p8wpt9v4frpf3tkn0srd97pksgsxc5hs52lafxwru9kgeephvs7rqjeprhg"),
        ("amount_sat", 2_000_000),
        ("request_id", new_payment_id()),
    ],
)
async def test_proofs_of_another_payment_do_not_carry_this_one(
    payer: Town, field: str, value: str | int
) -> None:
    order = payer.order()
    setattr(order, field, value)

    refusal = await refused(payer, order)

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == "PROOF_INVALID"


async def test_attestations_are_not_borrowed_from_another_payment(payer: Town) -> None:
    order, other = payer.order(), payer.order(amount_sat=2_000_000)
    del order.context.attestations[:]
    order.context.attestations.extend(other.context.attestations)

    assert reason(await refused(payer, order)) == "PROOF_INVALID"


async def test_a_service_may_not_attest_what_is_another_s(payer: Town) -> None:
    order = payer.order()
    digest = payment_digest(order.context.intent)
    forged = payer.attestors["web5"].attest("risk", digest, values={"score": 0.0})
    kept = [proof for proof in order.context.attestations if proof.kind != "risk"]
    del order.context.attestations[:]
    order.context.attestations.extend([*kept, forged])

    assert reason(await refused(payer, order)) == "PROOF_INVALID"


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
async def test_the_spender_holds_the_risk_against_its_own_limit(
    payer: Town, values: dict[str, Any], verdict: bool, expected: str
) -> None:
    order = payer.order()
    digest = payment_digest(order.context.intent)
    kept = [proof for proof in order.context.attestations if proof.kind != "risk"]
    risk = payer.attestors["ml"].attest("risk", digest, values=values, verdict=verdict)
    del order.context.attestations[:]
    order.context.attestations.extend([*kept, risk])

    refusal = await refused(payer, order)

    assert refusal.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal) == expected


async def test_an_expired_attestation_is_refused(payer: Town) -> None:
    order = payer.order()
    digest = payment_digest(order.context.intent)
    kept = [proof for proof in order.context.attestations if proof.kind != "risk"]
    risk = payer.attestors["ml"].attest("risk", digest, values={"score": 0.1}, lifetime=-1)
    del order.context.attestations[:]
    order.context.attestations.extend([*kept, risk])

    assert reason(await refused(payer, order)) == "PROOF_EXPIRED"


async def test_a_cancelled_payment_is_refused_for_ever(payer: Town) -> None:
    order = payer.order()
    await payer.spender.CancelPayment(pb.CancelPaymentRequest(payment_id=order.request_id))

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(order)

    assert reason(refusal.value) == "PAYMENT_CANCELLED"
    assert await payer.state(order.request_id) == "CANCELLED"
    assert await payer.waiting() == []


async def test_a_payment_that_exists_is_returned_and_not_cancelled(payer: Town) -> None:
    order = payer.order()
    await payer.spender.SendPayment(order)

    found = await payer.spender.CancelPayment(pb.CancelPaymentRequest(payment_id=order.request_id))

    assert found.payment.state == pb.PAYMENT_STATE_BROADCAST
    assert found.payment.amount_sat == order.amount_sat


async def test_nobody_but_the_orchestrator_may_spend(payer: Town) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.wallet.SendPayment(payer.order())

    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
