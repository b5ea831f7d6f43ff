"""Signals and cancels that arrive at any time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.engine.activations import (
    Activation,
    CallCommand,
    CancelCommand,
    CancelRequested,
    Due,
    SignalReceived,
)
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import commands
from tests.orchestrator.engine.definitions import EVERYTHING, READ, STORE, call, steps
from tests.orchestrator.engine.engine_run import CRASH, POLICY, EngineRun, paying, run_of
from tests.profile import examples

CANCEL = CancelRequested("enough", "spiffe://me")
UNDO = (
    "    compensate: {protocol: web5, operation: store_transaction_record,"
    " input_mapping: {did: d, transaction_data: {}}}"
)


def signal(name: str = "approved", correlation: str = "", **payload: object) -> SignalReceived:
    return SignalReceived(name, payload, correlation)


def waiting(what: str, **given: object) -> EngineRun:
    return run_of(steps(f"answer\n    wait_for: {what}"), **given)


def test_a_signal_ends_the_wait_for_it() -> None:
    run = waiting("{signal: approved}")
    assert run.status == "WAITING"

    run.apply(signal(by="me"))

    assert run.status == "SUCCEEDED"
    assert run.state.steps["answer"].output == {"signal": "approved", "payload": {"by": "me"}}


def test_an_early_signal_is_kept_across_a_crash() -> None:
    text = steps("pause\n    wait: {duration: 10s}", "answer\n    wait_for: {signal: approved}")
    run = run_of(text)
    run.apply(signal())
    run.crash()

    run.do(run.at("pause"))

    assert run.status == "SUCCEEDED"


def test_a_signal_completes_only_one_step() -> None:
    text = steps("one\n    wait_for: {signal: approved}", "two\n    wait_for: {signal: approved}")
    run = run_of(text)

    run.apply(signal(number=1))
    assert run.calls == []
    assert run.status == "WAITING"
    run.apply(signal(number=2))

    assert run.state.steps["two"].output["payload"] == {"number": 2}


def test_a_signal_of_another_name_or_correlation_is_not_taken() -> None:
    run = waiting('{signal: approved, correlation: "{{input.order}}"}', order="7")

    run.apply(signal("refused", "7"))
    run.apply(signal("approved", "8"))
    assert run.status == "WAITING"
    run.apply(signal("approved", "7"))

    assert run.status == "SUCCEEDED"


def test_any_takes_the_first_and_all_waits_for_each() -> None:
    either, both = waiting("{any: [agreed, denied]}"), waiting("{all: [left, right]}")

    either.apply(signal("denied", at=1))
    both.apply(signal("right", at=1))
    assert both.status == "WAITING"
    both.apply(signal("left", at=2))

    assert either.state.steps["answer"].output == {"signal": "denied", "payload": {"at": 1}}
    assert both.state.steps["answer"].output["payload"] == {"left": {"at": 2}, "right": {"at": 1}}


@pytest.mark.parametrize(("on_timeout", "end"), [("fail", "FAILED"), ("continue", "SUCCEEDED")])
def test_a_wait_for_a_signal_ends_with_its_timeout(on_timeout: str, end: str) -> None:
    run = waiting(f"{{signal: approved, timeout: 10s, on_timeout: {on_timeout}}}")
    begun = run.now_us
    run.do(run.commands[0])

    assert run.now_us == begun + 10 * SECOND_US
    assert run.status == end


def test_a_wait_without_a_timeout_ends_with_the_deadline() -> None:
    run = run_of("deadline: 1m\n" + steps("answer\n    wait_for: {signal: approved}"))

    run.do(run.commands[0])

    assert run.state.reason == (
        "answer: DEADLINE_EXCEEDED: the run's deadline passed while the step waited"
    )


def test_cancelled_run_is_compensated() -> None:
    run = run_of(steps(call("keep", STORE, UNDO), call("look")), did="d")
    run.reply("keep")
    run.apply(CANCEL)
    run.reply("keep/compensate")

    assert run.status == "COMPENSATED"
    assert run.state.reason == "cancelled by spiffe://me: enough"
    assert run.statuses()["look"] == "SKIPPED"


def test_a_cancel_waits_for_a_call_with_an_effect() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.apply(CANCEL)
    assert run.calls == ["keep"]

    run.reply("keep")

    assert run.status == "CANCELLED"


def test_a_cancelled_wait_ends_at_once() -> None:
    run = waiting("{signal: approved}")

    run.apply(CANCEL)

    assert run.status == "CANCELLED"


def test_a_cancel_before_the_payment_is_sent_leaves_nothing_sent() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.fail("execute_payment", "UNAVAILABLE", "BREAKER_OPEN")
    run.apply(CANCEL)
    run.reply("execute_payment/cancel")

    assert run.status == "CANCELLED"


def test_a_cancel_of_a_payment_that_may_have_been_sent_goes_through_its_service() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.fail("execute_payment", "DEADLINE_EXCEEDED")
    run.apply(CANCEL)
    (cancel,) = run.commands
    assert isinstance(cancel, CancelCommand)

    run.do(cancel)
    run.fail("execute_payment", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "CANCELLED"


@pytest.mark.parametrize("reason", ["BREAKER_OPEN", ""])
@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_cancelled_payment_is_retried_until_its_service_answers(
    reason: str, cancelled_first: bool
) -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    if cancelled_first:
        run.apply(CANCEL)
    run.fail("execute_payment", "UNAVAILABLE")
    if not cancelled_first:
        run.apply(CANCEL)
    (cancel,) = run.commands
    run.do(cancel)

    run.fail("execute_payment", "UNAVAILABLE", reason)
    assert not run.state.finished
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.fail("execute_payment", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "CANCELLED"
    assert run.replayed() == run.state


def test_a_cancel_while_the_payment_succeeds_changes_nothing() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.apply(CANCEL)
    run.reply("execute_payment")
    run.finish()

    assert run.status == "SUCCEEDED"


OUTCOMES = st.sampled_from(
    [
        *(None, None, None),
        StepError("UNAVAILABLE", "", "gone"),
        StepError("DEADLINE_EXCEEDED", "", "late"),
        StepError("UNAVAILABLE", "BREAKER_OPEN", "open"),
        StepError("FAILED_PRECONDITION", "PAYMENT_CANCELLED", "no"),
        CRASH,
    ]
)


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(OUTCOMES, max_size=25), st.integers(0, 25))
def test_a_run_that_ends_cancelled_has_not_paid(
    outcomes: list[StepError | str | None], when: int
) -> None:
    run = paying()
    unanswered = settled = False
    for at, outcome in enumerate(outcomes):
        if at == when and not run.state.finished:
            run.apply(CANCEL)
        if not run.commands:
            break
        command = run.commands[0]
        is_call = isinstance(command, CallCommand) and command.path == "execute_payment"
        lost = isinstance(outcome, StepError) and outcome.code in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
        )
        open_ = isinstance(outcome, StepError) and outcome.reason == "BREAKER_OPEN"
        unanswered |= is_call and not open_ and (lost or outcome == CRASH)
        settled |= isinstance(command, CancelCommand) and outcome is None
        run.do(command, outcome)
        assert run.replayed() == run.state

    made = run.statuses().get("execute_payment") == "SUCCEEDED"
    if run.status in ("CANCELLED", "FAILED", "REFUSED"):
        assert not made
        assert settled or not unanswered


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(st.tuples(st.integers(0, 9), OUTCOMES), max_size=60), st.integers(0, 60))
def test_a_run_can_be_cancelled_at_any_point(
    happenings: list[tuple[int, StepError | str | None]], when: int
) -> None:
    run = run_of(EVERYTHING, did="d")
    for at, (which, outcome) in enumerate(happenings):
        if not run.commands:
            break
        if at == when:
            run.apply(CANCEL)
        if run.commands:
            run.do(run.commands[which % len(run.commands)], outcome)
        replayed = run.replayed()
        assert replayed == run.state
        assert commands(replayed, POLICY) == run.commands
    run.finish()

    assert run.state.finished
    assert "RUNNING" not in run.statuses().values()


def test_a_cancel_skips_a_read_in_flight() -> None:
    run = run_of(steps(call("look", READ)), did="d")

    run.apply(CANCEL)

    assert run.status == "CANCELLED"
    assert run.statuses() == {"look": "SKIPPED"}


@pytest.mark.parametrize(("answer_first", "end"), [(True, "SUCCEEDED"), (False, "FAILED")])
def test_a_signal_at_the_moment_of_the_timeout_counts_if_it_is_recorded_first(
    answer_first: bool, end: str
) -> None:
    run = run_of(steps("answer\n    wait_for: {signal: approved, timeout: 10s}"))
    run.now_us += 10 * SECOND_US
    events: list[Activation] = [SignalReceived("approved", {}, "", 1), Due("answer")]

    for event in events if answer_first else reversed(events):
        if not run.state.finished:
            run.apply(event)

    assert run.status == end
    assert run.replayed() == run.state


def test_a_reply_at_the_moment_of_the_deadline_counts() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.now_us = run.state.deadline_us

    run.do(run.commands[0])

    assert run.status == "SUCCEEDED"
