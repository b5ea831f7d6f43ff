"""WatchPayment over gRPC: every change of the run and of the chain, and an end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import payment_pb2 as pb
from mesh.errors import Unavailable
from tests.orchestrator.payment_client import end_of, order, send, status, watch

if TYPE_CHECKING:
    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from tests.orchestrator.fake_services import FakeServices


async def test_watch_sends_every_change_and_ends_with_the_run(
    payments: PaymentServiceAsyncStub,
) -> None:
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)

    seen = [update async for update in watch(payments, request.request_id)]

    sequences = [update.sequence for update in seen]
    assert sorted(set(sequences)) == list(range(1, sequences[-1] + 1))
    assert sequences == sorted(sequences)
    assert status(seen[-1].payment) == "SUCCEEDED"
    assert seen[-1].payment.bitcoin_answer == pb.BITCOIN_ANSWER_FOUND


async def test_past_changes_hold_no_answer_of_bitcoin(
    payments: PaymentServiceAsyncStub,
) -> None:
    request = order()
    await send(payments, request)

    *past, last = [update.payment async for update in watch(payments, request.request_id)]

    assert {update.bitcoin_answer for update in past} == {pb.BITCOIN_ANSWER_UNSPECIFIED}
    assert not past[0].HasField("txid")
    assert last.state == wallet_pb2.PAYMENT_STATE_BROADCAST


@pytest.mark.parametrize("after", [3, 1000], ids=["in the middle", "at the end"])
async def test_resumed_watch_sends_at_least_the_current_payment(
    payments: PaymentServiceAsyncStub, after: int
) -> None:
    request = order()
    await send(payments, request)
    whole = [update async for update in watch(payments, request.request_id)]

    resumed = [update async for update in watch(payments, request.request_id, after=after)]

    missed = [update for update in whole if update.sequence > after]
    assert resumed == (missed or [whole[-1]])


async def test_watch_of_the_end_sends_only_the_end(
    payments: PaymentServiceAsyncStub,
) -> None:
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)

    waited = [update async for update in watch(payments, request.request_id, end_only=True)]

    updates = [update async for update in watch(payments, request.request_id)]
    assert waited == [updates[-1]]
    assert status(waited[0].payment) == "SUCCEEDED"


async def test_watch_of_the_end_waits_for_the_confirmations(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.state, fakes.confirmations = wallet_pb2.PAYMENT_STATE_CONFIRMED, 3
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)

    waited = watch(payments, request.request_id, end_only=True, confirmations=3)

    assert [update.payment.confirmations async for update in waited] == [3]


async def test_bitcoin_is_asked_only_when_the_payment_may_have_changed(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.paused["SendPayment"] = asyncio.Event()
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)
    followed = watch(payments, request.request_id)
    await anext(followed)
    fakes.paused["SendPayment"].set()

    seen = [update async for update in followed]

    assert len(fakes.requests("GetPayment")) < len(seen)
    assert seen[-1].payment.state == wallet_pb2.PAYMENT_STATE_BROADCAST


async def test_watch_continues_until_the_confirmations_are_reached(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)

    depths = []
    async for update in watch(payments, request.request_id, after=1000, confirmations=2):
        depths.append(update.payment.confirmations)
        fakes.state = wallet_pb2.PAYMENT_STATE_CONFIRMED
        fakes.confirmations = len(depths)

    assert depths == [0, 1, 2]


async def test_watch_sends_a_reorganization(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)
    script = iter([(1, "CONFIRMED"), (0, "BROADCAST"), (6, "SETTLED")])

    seen = []
    async for update in watch(payments, request.request_id, after=1000, confirmations=100):
        seen.append(update.payment.confirmations)
        fakes.confirmations, word = next(script, (6, "SETTLED"))
        fakes.state = wallet_pb2.PaymentState.Value(f"PAYMENT_STATE_{word}")

    assert seen == [0, 1, 0, 6]


async def test_watch_for_confirmations_of_a_refused_payment_ends_with_its_run(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    fakes.risk_score = 0.93
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)

    seen = [update async for update in watch(payments, request.request_id, confirmations=1)]

    assert status(seen[-1].payment) == "REFUSED"


async def test_watch_continues_while_bitcoin_is_down(
    payments: PaymentServiceAsyncStub, fakes: FakeServices
) -> None:
    request = order()
    await send(payments, request)
    fakes.errors_before["GetPayment"].append(Unavailable("down"))

    answers = []
    async for update in watch(payments, request.request_id, after=1000, confirmations=1):
        answers.append(update.payment.bitcoin_answer)
        fakes.confirmations = 1

    assert answers == [pb.BITCOIN_ANSWER_UNAVAILABLE, pb.BITCOIN_ANSWER_FOUND]


async def test_several_watches_of_one_payment_are_served(payments: PaymentServiceAsyncStub) -> None:
    request = order()
    await payments.SendVerifiedPayment(request, timeout=5)

    ends = await asyncio.gather(*(end_of(payments, request.request_id) for _ in range(20)))

    assert all(end == ends[0] for end in ends)
    assert status(ends[0]) == "SUCCEEDED"
