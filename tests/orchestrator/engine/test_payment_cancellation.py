"""A run ends as cancelled only once its service refuses the payment for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anya.bitcoin.v1 import wallet_pb2
from services.orchestrator import definition
from services.orchestrator.definition.workflow import privileges
from services.orchestrator.engine.activations import CallCommand, CancelRequested, WaitCommand
from services.orchestrator.engine.retry_policy import SECOND_US
from tests.orchestrator.engine.engine_run import paying
from tests.orchestrator.engine.finished_runs import redrive
from tests.orchestrator.engine.random_outcomes import HAPPENINGS, Services, live
from tests.profile import examples

if TYPE_CHECKING:
    from tests.orchestrator.engine.engine_run import EngineRun

CANCEL = CancelRequested("enough", "spiffe://me", 1)
CANCEL_STEP = "execute_payment/cancel"


def cancelled(run: EngineRun) -> EngineRun:
    """Cancels the run before it pays."""
    run.apply(CANCEL)
    run.reply("verify_sender")  # its call was in flight
    return run


def test_a_run_cancelled_before_it_pays_first_cancels_its_payment() -> None:
    run = cancelled(paying())

    (asked,) = run.commands
    run.reply(CANCEL_STEP)

    assert isinstance(asked, CallCommand)
    assert asked.method == "/anya.bitcoin.v1.WalletService/CancelPayment"
    assert wallet_pb2.CancelPaymentRequest.FromString(asked.request).payment_id == run.state.run_id
    assert (run.status, run.state.reason) == ("CANCELLED", "cancelled by spiffe://me: enough")
    assert run.statuses() == {"verify_sender": "SUCCEEDED", CANCEL_STEP: "SUCCEEDED"}


def test_a_cancelled_run_waits_for_the_service_beyond_its_deadline() -> None:
    run = cancelled(paying())

    for _ in range(9):
        run.fail(CANCEL_STEP, "UNAVAILABLE", "BREAKER_OPEN")
        assert run.status == "CIRCUIT_OPEN"
        run.now_us += 1200 * SECOND_US
        run.do(run.commands[0])
    run.reply(CANCEL_STEP)

    assert run.now_us > run.state.deadline_us
    assert run.status == "CANCELLED"


def test_a_run_whose_cancel_is_unanswered_needs_attention_and_can_be_redriven() -> None:
    run = cancelled(paying())
    while not run.state.finished:
        run.now_us += SECOND_US
        command = run.commands[0]
        if isinstance(command, WaitCommand):
            run.do(command)
        else:
            run.fail(CANCEL_STEP, "DEADLINE_EXCEEDED")

    ended = (run.status, run.state.reason)
    redrive(run)
    run.finish()

    unknown = f"{CANCEL_STEP}: its outcome is unknown, last DEADLINE_EXCEEDED: said the service"
    assert ended == ("NEEDS_ATTENTION", unknown)
    assert run.status == "CANCELLED"
    assert len(run.sent[CANCEL_STEP]) == 1
    assert "execute_payment" not in run.sent


def test_a_refused_cancel_needs_attention() -> None:
    run = cancelled(paying())

    run.fail(CANCEL_STEP, "PERMISSION_DENIED", "PERMISSION_NOT_GRANTED")

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == f"{CANCEL_STEP}: PERMISSION_NOT_GRANTED: said the service"


def test_a_payment_that_another_caller_made_is_not_called_cancelled() -> None:
    run = cancelled(paying())
    broadcast = wallet_pb2.Payment(state=wallet_pb2.PAYMENT_STATE_BROADCAST)

    run.do(run.at(CANCEL_STEP), wallet_pb2.CancelPaymentResponse(payment=broadcast))

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == f"{CANCEL_STEP}: not sent by this run, but its payment is broadcast"


def test_a_payment_refused_as_cancelled_is_not_cancelled_again() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.apply(CANCEL)

    run.fail("execute_payment", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "CANCELLED"
    assert CANCEL_STEP not in run.statuses()


def test_a_payment_refused_for_another_reason_is_cancelled() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.apply(CANCEL)

    run.fail("execute_payment", "FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    run.reply(CANCEL_STEP)

    assert run.status == "CANCELLED"


def test_a_run_without_the_spend_privilege_cancels_no_payment() -> None:
    all_but_spend = privileges(definition.load(definition.built_in_text("verified_payment")))

    run = cancelled(paying(allowed=all_but_spend - {"spend"}))

    assert run.status == "CANCELLED"
    assert run.statuses() == {"verify_sender": "SUCCEEDED"}


@pytest.mark.parametrize("late", [True, False], ids=["late", "in time"])
@settings(deadline=None, max_examples=examples(150))
@given(HAPPENINGS, st.integers(0, 12))
def test_no_payment_is_made_under_the_id_of_a_cancelled_run(
    late: bool, happenings: list[tuple[int, str]], when: int
) -> None:
    run, services = paying(), Services()

    live(run, services, happenings[:when])
    if not run.state.finished:
        run.apply(CANCEL)
    live(run, services, happenings[when:])
    if late:
        services.arrive()

    if run.status == "CANCELLED":
        assert run.state.run_id in services.cancelled
    if run.state.run_id in services.cancelled:
        assert not services.done.get("execute_payment")
