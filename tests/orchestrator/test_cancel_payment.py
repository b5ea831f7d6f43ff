"""Cancels of payments: one outcome, and the same end however the cancel was requested."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import wallet_pb2
from mesh.errors import Unavailable
from mesh.testing import eventually, reason
from tests.orchestrator.fake_services import txid_of
from tests.orchestrator.payment_client import cancel, end_of, get, order, send, status
from tests.orchestrator.payment_requests import uuid7

if TYPE_CHECKING:
    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from tests.orchestrator.fake_services import FakeServices


async def test_cancelled_payment_is_refused_and_never_sent(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)

    cancelled = await cancel(payments, request.request_id)
    fakes.paused["VerifyIdentity"].set()
    shown = await end_of(payments, request.request_id)

    assert cancelled.state == shown.state == wallet_pb2.PAYMENT_STATE_CANCELLED
    assert status(shown) == "CANCELLED"
    assert shown.reason == (
        "cancelled by spiffe://anya.internal/client/operator: its payment was cancelled"
    )
    assert fakes.effects["SendPayment"] == 0


async def test_payment_cancelled_while_it_is_sent_has_one_outcome(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    for held in ("SendPayment", "StoreTransactionRecord"):
        fakes.paused[held] = asyncio.Event()
        request = order()
        await payments.SendVerifiedPayment(request, timeout=5)
        await eventually(lambda held=held: bool(fakes.requests(held)))  # type: ignore[misc]

        cancelled = await cancel(payments, request.request_id)
        fakes.paused.pop(held).set()
        shown = await end_of(payments, request.request_id)

        is_first = held == "SendPayment"
        assert (cancelled.state == wallet_pb2.PAYMENT_STATE_CANCELLED) is is_first
        assert status(shown) == ("CANCELLED" if is_first else "SUCCEEDED")
        assert shown.state == cancelled.state
    assert len(fakes.sent) == 1


async def test_run_without_the_cancel_message_ends_alike(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["VerifyIdentity"] = asyncio.Event()
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)
    fakes.cancelled.add(request.request_id)  # by a client that is gone
    fakes.paused["VerifyIdentity"].set()

    shown = await end_of(payments, request.request_id)

    assert (status(shown), shown.error.reason) == ("CANCELLED", "PAYMENT_CANCELLED")
    assert shown.state == wallet_pb2.PAYMENT_STATE_CANCELLED


async def test_cancel_of_a_made_payment_returns_the_payment(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)

    shown = await cancel(payments, request.request_id)

    assert shown.state == wallet_pb2.PAYMENT_STATE_BROADCAST
    assert (status(shown), shown.txid) == ("SUCCEEDED", txid_of(request.request_id))
    assert not fakes.cancelled


async def test_payment_can_be_cancelled_before_it_is_sent(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()

    await cancel(payments, request.request_id)
    before = await get(payments, request.request_id)
    after = await send(payments, request)

    assert before.state == wallet_pb2.PAYMENT_STATE_CANCELLED
    assert not before.HasField("run_status")
    assert (status(after), after.error.reason) == ("CANCELLED", "PAYMENT_CANCELLED")
    assert fakes.effects["SendPayment"] == 0


async def test_repeated_cancel_changes_nothing(payments: PaymentServiceAsyncStub) -> None:
    request = order()

    first = await cancel(payments, request.request_id)

    assert await cancel(payments, request.request_id) == first


async def test_cancel_fails_if_bitcoin_does_not_answer(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.errors_before["CancelPayment"].append(Unavailable("down"))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cancel(payments, uuid7())

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(caught.value) == "PEER_UNAVAILABLE"
