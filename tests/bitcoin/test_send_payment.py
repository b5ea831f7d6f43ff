"""SendPayment through the wire, on a real chain: once and with proof, or not at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1 import wallet_pb2 as pb
from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from mesh.testing import Authority, reason
from tests.bitcoin.funded_mesh import (
    COINBASE_SAT,
    RECIPIENT,
    FundedMesh,
    config,
    open_funded_mesh,
    running,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def payer(authority: Authority, tmp_path: Path) -> AsyncIterator[FundedMesh]:
    async with open_funded_mesh(config(authority, tmp_path), authority) as people:
        yield people


async def test_proven_payment_pays_the_recipient_and_returns_the_rest(payer: FundedMesh) -> None:
    request = payer.payment_request(amount_sat=1_000_000)

    sent = await payer.spender.SendPayment(request)

    await payer.mine()
    utxos = await payer.chain.ListUtxos(chain_pb2.ListUtxosRequest(address=RECIPIENT))
    balance = await payer.wallet.GetBalance(pb.GetBalanceRequest(wallet_id=payer.wallet_id))
    assert sent.payment_id == request.request_id
    assert sent.status == pb.SEND_OUTCOME_SUCCESS
    assert [(utxo.txid, utxo.amount_sat) for utxo in utxos.utxos] == [(sent.txid, 1_000_000)]
    assert balance.confirmed_sat == COINBASE_SAT - 1_000_000 - sent.fee_sat


async def test_whole_service_pays_on_postgresql(
    authority: Authority, tmp_path: Path, new_postgres_database: str
) -> None:
    settings = config(authority, tmp_path, database=new_postgres_database)
    async with open_funded_mesh(settings, authority) as people:
        request = people.payment_request()
        sent = await people.spender.SendPayment(request)
        await people.mine()

        await people.reaches(request.request_id, "CONFIRMED")
        assert (await people.spender.SendPayment(request)).txid == sent.txid


async def test_events_of_a_payment_name_the_trace_that_made_it(
    authority: Authority, tmp_path: Path
) -> None:
    async with open_funded_mesh(config(authority, tmp_path), authority) as people:
        await people.spender.SendPayment(people.payment_request())
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


async def test_change_does_not_return_to_the_sender_address(payer: FundedMesh) -> None:
    await payer.spender.SendPayment(payer.payment_request())
    await payer.mine()

    address = await payer.wallet.GetBalance(
        pb.GetBalanceRequest(wallet_id=payer.wallet_id, address=payer.address)
    )

    assert address.confirmed_sat == 0


async def test_retry_pays_once_and_gets_the_same_reply(payer: FundedMesh) -> None:
    request = payer.payment_request()

    first = await payer.spender.SendPayment(request)
    second = await payer.spender.SendPayment(request)

    assert second == first
    assert await payer.waiting() == [first.txid]


async def test_attempts_that_race_make_one_payment(payer: FundedMesh) -> None:
    request = payer.payment_request()

    replies = await asyncio.gather(*(payer.spender.SendPayment(request) for _ in range(8)))

    assert {reply.txid for reply in replies} == {replies[0].txid}
    assert await payer.waiting() == [replies[0].txid]


async def test_retry_succeeds_after_its_proofs_expired(
    authority: Authority, tmp_path: Path
) -> None:
    async with open_funded_mesh(config(authority, tmp_path), authority) as people:
        request = people.payment_request()
        first = await people.spender.SendPayment(request)

    stranger = Authority(tmp_path)  # the attestations do not verify under a new authority
    async with running(config(stranger, tmp_path), stranger) as people:
        second = await people.spender.SendPayment(request)

    assert second.txid == first.txid


async def test_payment_id_of_another_payment_is_refused(payer: FundedMesh) -> None:
    request = payer.payment_request()
    await payer.spender.SendPayment(request)
    other = payer.payment_request(payment_id=request.request_id, amount_sat=2_000_000)

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(other)

    assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason(refusal.value) == "REQUEST_ID_REUSED"


async def test_payments_at_once_never_share_a_coin(authority: Authority, tmp_path: Path) -> None:
    async with open_funded_mesh(config(authority, tmp_path), authority, coins=4) as people:
        requests = [people.payment_request() for _ in range(4)]

        await asyncio.gather(*map(people.spender.SendPayment, requests))

        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await people.spender.SendPayment(people.payment_request())
        assert len(await people.waiting()) == 4
        assert reason(refusal.value) == "INSUFFICIENT_FUNDS"


async def test_amount_above_the_balance_is_refused(payer: FundedMesh) -> None:
    other = await payer.derive()
    await payer.spender.SendPayment(
        payer.payment_request(recipient_address=other, amount_sat=1_000_000)
    )
    await payer.mine()

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(
            payer.payment_request(sender_address=other, amount_sat=1_000_000)
        )

    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refusal.value) == "INSUFFICIENT_FUNDS"


async def test_cancelled_payment_is_refused_for_ever(payer: FundedMesh) -> None:
    request = payer.payment_request()
    await payer.spender.CancelPayment(pb.CancelPaymentRequest(payment_id=request.request_id))

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.spender.SendPayment(request)

    assert reason(refusal.value) == "PAYMENT_CANCELLED"
    assert await payer.state(request.request_id) == "CANCELLED"
    assert await payer.waiting() == []


async def test_payment_that_exists_is_returned_and_not_cancelled(payer: FundedMesh) -> None:
    request = payer.payment_request()
    await payer.spender.SendPayment(request)

    found = await payer.spender.CancelPayment(
        pb.CancelPaymentRequest(payment_id=request.request_id)
    )

    assert found.payment.state == pb.PAYMENT_STATE_BROADCAST
    assert found.payment.amount_sat == request.amount_sat
