"""The interpreter begins steps in order, and returns the end of the run once one is decided."""

from __future__ import annotations

from services.orchestrator.engine.model import RunStatus, StepError, StepStatus
from tests.orchestrator.engine.definitions import call, steps
from tests.orchestrator.engine.parts import parts_of

FIRST = "first\n    set: {number: 1}"
PAUSE = "pause\n    wait: {duration: 1m}"
END = "stop\n    end: {outcome: refused, reason: enough}"


def test_steps_begin_in_order_up_to_the_first_that_waits() -> None:
    parts = parts_of(steps(FIRST, PAUSE, "last\n    set: {}"))

    assert parts.interpreter.advance() is None
    assert parts.records() == [("STEP_DONE", "first"), ("STEP_INTENT", "pause")]


def test_steps_that_have_ended_are_not_begun_again() -> None:
    parts = parts_of(steps(FIRST, PAUSE, "last\n    set: {}"))
    parts.interpreter.advance()
    before = len(parts.writer.records)

    assert parts.interpreter.advance() is None
    assert len(parts.writer.records) == before
    parts.waits.end_timer(parts.writer.state.steps["pause"])
    assert parts.interpreter.advance() == (RunStatus.SUCCEEDED, "")


def test_a_condition_that_is_false_skips_its_step_and_names_the_operands() -> None:
    text = steps(FIRST, 'never\n    condition: "{{steps.first.number}} > 5"\n    set: {}')
    parts = parts_of(text)

    parts.interpreter.advance()

    step = parts.writer.state.steps["never"]
    assert step.status is StepStatus.SKIPPED
    assert step.condition is not None
    assert step.condition["verdict"] is False


def test_an_end_step_decides_the_end_and_begins_nothing_after_it() -> None:
    parts = parts_of(steps(FIRST, END, "last\n    set: {}"))

    assert parts.interpreter.advance() == (RunStatus.REFUSED, "enough")
    assert "last" not in parts.writer.state.steps


def test_a_failure_that_nothing_catches_decides_the_end() -> None:
    parts = parts_of(steps(call("look"), "last\n    set: {}"), did="d")
    parts.interpreter.advance()
    parts.writer.fail("look", StepError("NOT_FOUND", "", "no such DID"))

    assert parts.interpreter.advance() == (RunStatus.FAILED, "look: NOT_FOUND: no such DID")


def test_a_failure_that_is_caught_begins_the_handler_and_then_the_next_step() -> None:
    handled = call("look", more="    on_error: {steps: [{id: note, set: {a: 1}}]}")
    parts = parts_of(steps(handled, "last\n    set: {}"), did="d")
    parts.interpreter.advance()
    parts.writer.fail("look", StepError("NOT_FOUND", "", "no such DID"))

    assert parts.interpreter.advance() == (RunStatus.SUCCEEDED, "")
    assert parts.records()[-3:] == [
        ("STEP_DONE", "look/on_error/note"),
        ("STEP_HANDLED", "look"),
        ("STEP_DONE", "last"),
    ]
