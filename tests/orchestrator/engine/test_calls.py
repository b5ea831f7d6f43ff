"""Calls repeat one request under one key, wait for circuit breakers, and stop when they must."""

from __future__ import annotations

import pytest

from anya.web5.v1 import record_pb2
from services.orchestrator.definition.workflow import Call
from services.orchestrator.engine.model import Phase, StepError, StepStatus
from services.orchestrator.engine.retry_policy import SECOND_US
from tests.orchestrator.engine.definitions import READ, STORE, call, steps
from tests.orchestrator.engine.parts import POLICY, Parts, parts_of

LOST = StepError("UNAVAILABLE", "", "the connection was lost")
OPEN = StepError("UNAVAILABLE", "BREAKER_OPEN", "open", retry_after_s=2.0)
REFUSED = StepError("INVALID_ARGUMENT", "", "no")


def begun(body: str = STORE, more: str = "") -> Parts:
    parts = parts_of(steps(call("save", body, more)), did="d")
    begin(parts)
    return parts


def begin(parts: Parts) -> None:
    step = parts.step("save")
    assert isinstance(step.action, Call)
    metadata = parts.writer.metadata(step, "save")
    parts.calls.begin(step.action, "save", parts.writer.scope_at("save"), metadata, {})


def test_every_attempt_sends_the_same_request_under_the_same_key() -> None:
    parts = begun()
    step = parts.writer.state.steps["save"]
    sent = step.request
    parts.calls.receive_error(step, LOST)

    assert (step.phase, step.status) == (Phase.BACKOFF, StepStatus.UNCERTAIN)
    parts.calls.resume(step)
    assert (step.phase, step.attempt) == (Phase.CALL, 2)
    assert step.request == sent
    request = record_pb2.StoreTransactionRecordRequest.FromString(sent)
    assert request.request_id == step.key == "run/save/0"


def test_a_call_without_its_privilege_fails_before_anything_is_sent() -> None:
    parts = parts_of(steps(call("save", STORE)), did="d")
    parts.writer.state.allowed_privileges = frozenset({"read_identity"})
    begin(parts)

    step = parts.writer.state.steps["save"]
    assert step.error is not None
    assert (step.error.reason, step.request) == ("PERMISSION_NOT_GRANTED", b"")


def test_an_open_circuit_uses_up_no_attempt_and_no_time() -> None:
    parts = begun()
    step = parts.writer.state.steps["save"]
    parts.calls.receive_error(step, OPEN)

    assert step.phase is Phase.CIRCUIT_OPEN
    assert step.until_us >= parts.writer.at_us + 2 * SECOND_US
    parts.writer.at_us += int(2 * POLICY.step_timeout_s * SECOND_US)
    parts.calls.resume(step)
    assert (step.phase, step.attempt) == (Phase.CALL, 1)
    assert step.retry_started_us == parts.writer.at_us


def test_a_step_whose_outcome_is_unknown_when_its_time_is_over_stays_uncertain() -> None:
    parts = begun()
    step = parts.writer.state.steps["save"]
    parts.writer.at_us += int(POLICY.step_timeout_s * SECOND_US)
    parts.calls.receive_error(step, LOST)

    assert (step.phase, step.status) == (Phase.ENDED, StepStatus.UNCERTAIN)


@pytest.mark.parametrize(
    ("named", "phase"), [("", Phase.ENDED), ("errors: [INVALID_ARGUMENT], ", Phase.BACKOFF)]
)
def test_a_refusal_is_retried_only_if_the_definition_names_it(named: str, phase: Phase) -> None:
    parts = begun(more=f"    retry: {{{named}max_attempts: 3}}\n")
    step = parts.writer.state.steps["save"]

    parts.calls.receive_error(step, REFUSED)

    assert step.phase is phase


def test_a_reply_completes_the_step_with_its_output() -> None:
    parts = begun()
    parts.calls.receive_reply(
        "save", record_pb2.StoreTransactionRecordResponse(record_id="r").SerializeToString()
    )

    assert parts.writer.state.steps["save"].output == {"record": "r"}


def test_a_reply_that_cannot_be_read_fails_the_step() -> None:
    parts = begun()
    parts.calls.receive_reply("save", b"\xff")

    step = parts.writer.state.steps["save"]
    assert step.status is StepStatus.FAILED
    assert str(step.error).startswith("INTERNAL: the reply of save: ")


@pytest.mark.parametrize(("body", "uncertain"), [(STORE, True), (READ, False)])
def test_recovery_repeats_the_call_and_marks_only_effects_uncertain(
    body: str, uncertain: bool
) -> None:
    parts = begun(body)
    parts.calls.recover()

    step = parts.writer.state.steps["save"]
    assert (step.phase, step.attempt, step.uncertain) == (Phase.CALL, 2, uncertain)
