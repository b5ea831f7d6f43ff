"""What a cancelled run did not pay is refused for ever, or the run is not called cancelled."""

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
from tests.orchestrator.engine.test_redrive_properties import HAPPENINGS, Services, live
from tests.profile import examples

if TYPE_CHECKING:
    from tests.orchestrator.engine.engine_run import Drive

CANCEL = CancelRequested("enough", "spiffe://me", 1)
REFUSAL = "execute_payment/cancel"


def cancelled(run: Drive) -> Drive:
    """Before it came to pay."""
    run.take(CANCEL)
    run.reply("verify_sender")  # that was under way
    return run


def test_a_run_that_is_cancelled_before_it_pays_has_its_payment_refused_first() -> None:
    run = cancelled(paying())

    (asked,) = run.commands
    run.reply(REFUSAL)

    assert isinstance(asked, CallCommand)
    assert asked.method == "/anya.bitcoin.v1.WalletService/CancelPayment"
    assert wallet_pb2.CancelPaymentRequest.FromString(asked.request).payment_id == run.state.run_id
    assert (run.status, run.state.reason) == ("CANCELLED", "cancelled by spiffe://me: enough")
    assert run.statuses() == {"verify_sender": "SUCCEEDED", REFUSAL: "SUCCEEDED"}


def test_a_cancelled_run_waits_for_the_service_beyond_its_deadline() -> None:
    run = cancelled(paying())

    for _ in range(9):
        run.fail(REFUSAL, "UNAVAILABLE", "CIRCUIT_OPEN")
        assert run.status == "CIRCUIT_OPEN"
        run.now_us += 1200 * SECOND_US
        run.do(run.commands[0])
    run.reply(REFUSAL)

    assert run.now_us > run.state.deadline_us
    assert run.status == "CANCELLED"


def test_a_run_whose_payment_nobody_refuses_needs_attention_and_is_redriven_to_the_cancel() -> None:
    run = cancelled(paying())
    while not run.state.finished:
        run.now_us += SECOND_US
        command = run.commands[0]
        if isinstance(command, WaitCommand):
            run.do(command)
        else:
            run.fail(REFUSAL, "DEADLINE_EXCEEDED")

    told = (run.status, run.state.reason)
    redrive(run)
    run.finish()

    unknown = f"{REFUSAL}: its outcome is unknown, last DEADLINE_EXCEEDED: said the service"
    assert told == ("NEEDS_ATTENTION", unknown)
    assert run.status == "CANCELLED"
    assert len(run.sent[REFUSAL]) == 1
    assert "execute_payment" not in run.sent


def test_a_service_that_refuses_to_cancel_is_told_of() -> None:
    run = cancelled(paying())

    run.fail(REFUSAL, "PERMISSION_DENIED", "PERMISSION_NOT_GRANTED")

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == f"{REFUSAL}: PERMISSION_NOT_GRANTED: said the service"


def test_a_payment_that_somebody_else_made_is_not_called_cancelled() -> None:
    run = cancelled(paying())
    there = wallet_pb2.Payment(state=wallet_pb2.PAYMENT_STATE_BROADCAST)

    run.do(run.at(REFUSAL), wallet_pb2.CancelPaymentResponse(payment=there))

    assert run.status == "NEEDS_ATTENTION"
    assert run.state.reason == f"{REFUSAL}: not sent by this run, but its payment is broadcast"


def test_a_payment_that_was_refused_as_cancelled_is_not_refused_again() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.take(CANCEL)

    run.fail("execute_payment", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "CANCELLED"
    assert REFUSAL not in run.statuses()


def test_a_payment_that_was_refused_otherwise_could_be_asked_for_again() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.take(CANCEL)

    run.fail("execute_payment", "FAILED_PRECONDITION", "INSUFFICIENT_FUNDS")
    run.reply(REFUSAL)

    assert run.status == "CANCELLED"


def test_a_run_that_may_not_spend_keeps_nobody_from_paying() -> None:
    all_but_spend = privileges(definition.load(definition.built_in_text("verified_payment")))

    run = cancelled(paying(ceiling=all_but_spend - {"spend"}))

    assert run.status == "CANCELLED"
    assert run.statuses() == {"verify_sender": "SUCCEEDED"}


@pytest.mark.parametrize("late", [True, False], ids=["late", "in time"])
@settings(deadline=None, max_examples=examples(150))
@given(HAPPENINGS, st.integers(0, 12))
def test_after_a_run_ended_cancelled_nothing_pays_under_its_id(
    late: bool, happenings: list[tuple[int, str]], when: int
) -> None:
    run, services = paying(), Services()

    live(run, services, happenings[:when])
    if not run.state.finished:
        run.take(CANCEL)
    live(run, services, happenings[when:])
    if late:
        services.arrive()

    if run.status == "CANCELLED":
        assert run.state.run_id in services.cancelled
    if run.state.run_id in services.cancelled:
        assert not services.done.get("execute_payment")
