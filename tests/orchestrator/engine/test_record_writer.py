"""The record writer folds what it adds, and fails a step together with the steps around it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import pytest

from services.orchestrator.engine.model import FailureScope, Phase, StepError, StepStatus
from services.orchestrator.engine.records import (
    MAX_PAYLOAD_BYTES,
    PayloadTooLargeError,
    RecordKind,
)
from tests.orchestrator.engine.definitions import call, steps
from tests.orchestrator.engine.parts import parts_of

if TYPE_CHECKING:
    from services.orchestrator.engine.record_writer import RecordWriter

BRANCHES = (
    "both\n    parallel:\n      branches:\n"
    "        left: [{id: first, set: {a: 1}}]\n        right: [{id: second, set: {a: 2}}]\n"
)
CATCH = "    on_error: {errors: [NOT_FOUND], steps: [{id: note, set: {a: 3}}]}\n"
ERROR = StepError("NOT_FOUND", "", "no such thing")


def test_a_record_is_numbered_and_folded_as_it_is_added() -> None:
    writer = parts_of(steps(call("look")), did="d").writer

    writer.skip(writer.workflow.step("look"), "look", "no need")

    (record,) = writer.records
    assert (record.sequence, record.kind, record.path) == (2, RecordKind.STEP_SKIPPED, "look")
    assert writer.state.sequence == 2
    assert writer.state.steps["look"].skip_reason == "no need"


def test_a_record_that_is_too_large_leaves_the_state_as_it_was() -> None:
    writer = parts_of(steps(call("look")), did="d").writer
    before = deepcopy(writer.state)

    with pytest.raises(PayloadTooLargeError):
        writer.add(RecordKind.FINISH, "", {"status": "FAILED", "reason": "x" * MAX_PAYLOAD_BYTES})

    assert writer.state == before
    assert not writer.records


def test_a_failure_that_nothing_catches_fails_every_step_around_it() -> None:
    writer = branching(BRANCHES)

    writer.fail("both/first", ERROR)

    both = writer.state.steps["both"]
    assert both.status is StepStatus.FAILED
    assert (both.failed_step, both.failure_scope) == ("both/first", "")


def test_a_failure_that_an_outer_step_catches_leaves_that_step_open() -> None:
    writer = branching(BRANCHES + CATCH)

    writer.fail("both/first", ERROR)

    assert writer.state.steps["both/first"].failure_scope == FailureScope.OUTER
    assert writer.state.steps["both"].phase is Phase.CHILDREN
    assert writer.state.failed_children == {"both": "both/first"}


@pytest.mark.parametrize("code", ["INTERNAL", "NOT_FOUND"])
def test_only_a_known_outcome_with_a_listed_error_is_caught(code: str) -> None:
    writer = branching(BRANCHES + CATCH)

    writer.fail("both/first", StepError(code, "", "no"), uncertain=code == "NOT_FOUND")

    assert writer.state.steps["both"].phase is Phase.ENDED


def test_a_failure_in_on_error_is_not_caught_by_the_same_step() -> None:
    writer = branching(BRANCHES + CATCH)

    writer.fail("both", ERROR)
    writer.fail("both/on_error/note", ERROR)

    assert writer.state.steps["both"].phase is Phase.ENDED
    assert writer.state.steps["both"].failed_step == "both/on_error/note"


def test_a_skipped_step_skips_every_step_inside_it() -> None:
    writer = parts_of(steps(BRANCHES + CATCH)).writer

    writer.skip(writer.workflow.step("both"), "both", "no need")

    assert list(writer.state.steps) == ["both", "both/first", "both/second", "both/on_error/note"]
    assert {step.status for step in writer.state.steps.values()} == {StepStatus.SKIPPED}


def branching(text: str) -> RecordWriter:
    """A writer whose run is inside the step ``both``."""
    writer = parts_of(steps(text)).writer
    metadata = writer.metadata(writer.workflow.step("both"), "both")
    writer.add(RecordKind.STEP_INTENT, "both", {**metadata, "input": {}}, attempt=1)
    return writer
