"""A redriven run continues from the step that stopped it, and repeats no effect."""

from __future__ import annotations

import json

import pytest

from anya.bitcoin.v1 import wallet_pb2
from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine import redrive as rules
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelRequested,
    Replied,
)
from services.orchestrator.engine.model import RunStatus, StepError
from services.orchestrator.engine.retry_policy import SECOND_US
from tests.orchestrator.engine.definitions import READ, STORE, UNDO, call, indent, steps
from tests.orchestrator.engine.engine_run import EngineRun, paying, run_of
from tests.orchestrator.engine.finished_runs import end_by_defect, redrive

LOST = StepError("DEADLINE_EXCEEDED", "", "late")
REFUSED = StepError("FAILED_PRECONDITION", "DID_INVALID", "no")
REDRIVABLE = ("FAILED", "NEEDS_ATTENTION", "COMPENSATION_FAILED")


def branches(left: str, right: str, more: str = "") -> str:
    """Returns a definition of two calls side by side, each given from its ``protocol`` on."""
    text = "    parallel:\n      branches:\n"
    for name, body in (("left", left), ("right", right)):
        text += f"        {name}_side:\n          - id: {name}{body}"
    return steps(f"both\n{text}{more}")


def give_up(run: EngineRun, path: str, code: str = "UNAVAILABLE") -> None:
    """Fails the step until the run ends."""
    while not run.state.finished:
        run.do(run.commands[0], StepError(code, "", "gone") if run.calls == [path] else None)


def test_a_redriven_run_continues_from_the_failed_step() -> None:
    run = run_of(steps(call("first", STORE), call("look", READ), call("last", STORE)), did="d")
    run.reply("first")
    run.fail("look")
    assert run.status == "FAILED"

    redrive(run)
    assert run.calls == ["look"]
    run.reply("look", "last")

    assert run.status == "SUCCEEDED"
    assert len(run.sent["first"]) == 1
    (again,) = run.state.redrives
    assert (again.requester, again.reason, again.previous_status) == (
        "spiffe://ops",
        "mended",
        RunStatus.FAILED,
    )


def test_an_uncertain_step_is_retried_with_the_same_request() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    give_up(run, "keep", "DEADLINE_EXCEEDED")
    assert run.status == "NEEDS_ATTENTION"
    before = run.state.steps["keep"].attempt

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert len(run.sent["keep"]) == 1
    assert run.state.steps["keep"].attempt == before + 1


def test_a_refused_step_restarts_under_a_new_key() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.fail("keep", "INVALID_ARGUMENT")

    redrive(run)
    assert run.state.steps["keep"].key == "run/keep/0/1"
    run.fail("keep", "INVALID_ARGUMENT")
    redrive(run)

    assert run.state.steps["keep"].key == "run/keep/0/2"
    run.reply("keep")
    assert run.status == "SUCCEEDED"


def test_a_step_refused_after_a_lost_attempt_keeps_its_key() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.fail("keep", "DEADLINE_EXCEEDED")
    run.do(run.commands[0])
    run.fail("keep", "INVALID_ARGUMENT")
    assert run.status == "FAILED"

    redrive(run)
    run.finish()

    assert len(run.sent["keep"]) == 1
    assert run.state.steps["keep"].key == "run/keep/0"


def test_a_redrive_restarts_the_attempts_and_the_deadline() -> None:
    text = "deadline: 1m\n" + steps(
        call("keep", STORE, "    retry: {max_attempts: 2}\n    timeout: 10s\n"), call("look", READ)
    )
    run = run_of(text, did="d")
    for _ in range(2):
        run.fail("keep", "ABORTED")
        if run.commands:
            run.do(run.commands[0])
    assert run.status == "FAILED"
    run.now_us += 3600 * SECOND_US

    redrive(run)
    run.do(run.commands[0])
    run.fail("keep", "ABORTED")
    run.do(run.commands[0])
    run.reply("keep", "look")

    assert run.status == "SUCCEEDED"
    assert run.state.deadline_us < run.now_us + 60 * SECOND_US


def test_a_failed_compensation_is_retried_before_the_remaining_ones() -> None:
    run = run_of(
        steps(call("one", STORE, UNDO), call("two", STORE, UNDO), call("look", READ)), did="d"
    )
    run.reply("one", "two")
    run.fail("look")
    run.fail("two/compensate")
    assert run.status == "COMPENSATION_FAILED"

    redrive(run)
    assert run.calls == ["two/compensate"]
    run.reply("two/compensate", "one/compensate")

    assert run.status == "COMPENSATED"
    assert run.statuses()["look"] == "FAILED"


def test_branches_beside_the_failed_one_continue() -> None:
    text = steps(
        "both\n    parallel:\n      branches:\n"
        "        left:\n          - id: pause\n            wait: {duration: 10s}\n"
        "          - id: after\n            set: {a: 1}\n"
        "        right:\n          - id: look\n            protocol: web5\n"
        "            operation: extract_identity_features\n"
        "            input_mapping: {did: d, recipient_address: r}\n"
        "            output_mapping: {}\n"
    )
    run = run_of(text)
    run.fail("both/look")
    assert run.statuses()["both/pause"] == "SKIPPED"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert set(run.statuses().values()) == {"SUCCEEDED"}


def test_a_failed_handler_continues_with_the_error_that_it_handles() -> None:
    text = steps(
        call("look", READ, "    on_error:\n      steps:\n")
        + "        - id: keep"
        + STORE.replace("\n    ", "\n          "),
        'note\n    set: {why: "{{steps.look._error}}"}',
    )
    run = run_of(text, did="d")
    run.fail("look", "NOT_FOUND")
    run.fail("look/on_error/keep", "INVALID_ARGUMENT")
    assert run.status == "FAILED"

    redrive(run)
    assert run.calls == ["look/on_error/keep"]
    run.reply("look/on_error/keep")

    assert run.status == "SUCCEEDED"
    assert run.state.steps["note"].output == {"why": "NOT_FOUND"}


def test_outputs_of_a_step_are_null_after_its_failed_handler_is_redriven() -> None:
    text = steps(
        call("look", READ, "    on_error:\n      steps:\n        - id: keep")
        + indent(STORE, 6)
        + "\n",
        'note\n    set: {links: "{{steps.look.links}}"}',
    )
    run = run_of(text, did="d")
    run.fail("look", "NOT_FOUND")
    run.fail("look/on_error/keep", "INVALID_ARGUMENT")

    redrive(run)
    run.reply("look/on_error/keep")

    assert run.status == "SUCCEEDED"
    assert run.state.steps["note"].output == {"links": None}


def test_a_handler_that_the_end_of_the_run_abandoned_continues() -> None:
    handler = "            on_error:\n              steps:\n                - id: again"
    left = f"{indent(READ, 8)}\n{handler}{indent(READ, 14)}\n"
    run = run_of(branches(left, indent(STORE, 8) + "\n"), did="d")
    run.fail("both/left", "NOT_FOUND")
    run.fail("both/right", "INVALID_ARGUMENT")
    assert run.statuses()["both/left"] == "SKIPPED"

    redrive(run)
    assert run.calls == ["both/left/on_error/again", "both/right"]
    run.finish()

    assert run.status == "SUCCEEDED"
    assert run.statuses()["both/left"] == "FAILED"


def test_a_caught_failure_still_fails_its_block_after_a_redrive() -> None:
    text = branches(
        indent(READ, 8) + "\n",
        indent(STORE, 8) + "\n",
        "    on_error: {errors: [NOT_FOUND]}\n",
    )
    run = run_of(text, did="d")
    run.fail("both/left", "NOT_FOUND")
    give_up(run, "both/right", "DEADLINE_EXCEEDED")  # its outcome is unknown: no step catches that
    assert run.status == "NEEDS_ATTENTION"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert run.statuses()["both/right"] == "SUCCEEDED"
    assert run.state.steps["both"].error == StepError("NOT_FOUND", "", "said the service")


def test_a_handler_that_ended_the_run_ends_it_again() -> None:
    text = json.dumps(
        {
            "id": "paid",
            "name": "paid",
            "steps": [
                {
                    "id": "pay",
                    "protocol": "bitcoin",
                    "operation": "send_transaction",
                    "input_mapping": {
                        "from_address": "{{input.sender_address}}",
                        "to_address": "{{input.recipient_address}}",
                        "amount": "{{input.amount}}",
                    },
                    "output_mapping": {},
                },
                {
                    "id": "look",
                    "protocol": "web5",
                    "operation": "extract_identity_features",
                    "input_mapping": {"did": "{{input.sender_did}}", "recipient_address": "r"},
                    "output_mapping": {},
                    "on_error": {"steps": [{"id": "out", "end": {"outcome": "failed"}}]},
                },
            ],
        }
    )
    run = paying(text=text)
    unknown = wallet_pb2.SendPaymentResponse(status=wallet_pb2.SEND_OUTCOME_UNKNOWN)
    run.do(run.at("pay"), unknown)
    while not run.state.finished:
        run.do(run.commands[0], StepError("NOT_FOUND", "", "gone"))
    assert run.status == "NEEDS_ATTENTION"

    redrive(run)
    assert [command.path for command in run.commands] == ["pay"]
    run.finish()

    assert (run.status, run.statuses()["pay"]) == ("NEEDS_ATTENTION", "SUCCEEDED")
    assert run.attempts["look"] == [1]


def test_a_run_that_a_defect_ended_continues_where_it_was() -> None:
    run = run_of(steps(call("keep", STORE), call("look", READ)), did="d")
    end_by_defect(run)

    redrive(run)
    assert run.state.steps["keep"].uncertain  # the process that called stopped before the answer
    run.finish()

    assert run.status == "SUCCEEDED"
    assert len(run.sent["keep"]) == 1


def test_a_redrive_alone_sends_nothing() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.fail("keep", "RESOURCE_EXHAUSTED", "BUDGET_EXCEEDED")
    redrive(run, begin=False)

    assert not [command for command in run.commands if isinstance(command, CallCommand)]


@pytest.mark.parametrize(
    "status", [RunStatus.SUCCEEDED, RunStatus.REFUSED, RunStatus.CANCELLED, RunStatus.COMPENSATED]
)
def test_a_run_with_a_final_status_cannot_be_redriven(status: RunStatus) -> None:
    run = run_of(steps(call("look", READ)), did="d")

    with pytest.raises(FailedPrecondition, match=f"ended as {status}") as refusal:
        rules.redrive(run.state, status, reason="", requester="me", at_us=run.now_us)

    assert refusal.value.reason is Reason.RUN_NOT_REDRIVABLE


def test_a_run_that_an_end_step_ended_cannot_be_redriven() -> None:
    text = steps(
        'way\n    switch:\n      - when: "{{input.a}} > 0"\n        steps:\n'
        "          - id: out\n            end: {outcome: failed, reason: enough}\n"
    )
    run = run_of(text, a=1)
    assert run.status == "FAILED"

    with pytest.raises(FailedPrecondition, match="no step stopped it"):
        redrive(run)


def test_the_number_of_redrives_is_limited() -> None:
    run = run_of(steps(call("look", READ)), did="d")
    run.fail("look")
    for _ in range(rules.MAX_REDRIVES):
        redrive(run)
        run.fail("look")

    with pytest.raises(FailedPrecondition, match="99 times"):
        redrive(run)


def test_a_payment_whose_outcome_is_unknown_keeps_its_id_and_request() -> None:
    run = paying()
    outcomes: list[StepError | None] = []
    while not run.state.finished:
        command = run.commands[0]
        is_pivot = command.path == "execute_payment" and not hasattr(command, "until_us")
        outcomes.append(LOST if is_pivot else None)
        run.do(command, outcomes[-1])
    assert run.status == "NEEDS_ATTENTION"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert len(run.sent["execute_payment"]) == 1
    assert run.state.steps["execute_payment"].key == run.state.run_id


def test_a_payment_answered_as_unknown_is_retried_with_the_steps_after_it() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    unknown = wallet_pb2.SendPaymentResponse(status=wallet_pb2.SEND_OUTCOME_UNKNOWN)
    run.apply(Replied("execute_payment", unknown.SerializeToString()))
    assert run.status == "NEEDS_ATTENTION"
    assert run.statuses()["record_transaction"] == "SKIPPED"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert run.statuses()["record_transaction"] == "SUCCEEDED"


def test_an_unanswered_cancel_is_retried() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.apply(CancelRequested("enough", "spiffe://me"))
    while not run.state.finished:
        run.do(run.commands[0], LOST)
    assert run.status == "NEEDS_ATTENTION"

    redrive(run)
    (cancel,) = run.commands
    assert isinstance(cancel, CancelCommand)
    run.do(cancel)
    run.fail("execute_payment", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "CANCELLED"
