"""Blocks complete or fail a step with the steps inside it, whatever walks those."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.engine.blocks import Progress
from services.orchestrator.engine.model import Phase, StepError, StepStatus
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.scope import ITEMS
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.engine.parts import Parts, parts_of

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Step

RACE = (
    "race\n    parallel:\n      wait_for: first\n      branches:\n"
    "        left: [{id: one, wait: {duration: 1s}}]\n"
    "        right: [{id: two, wait: {duration: 1s}}]\n"
)
EACH = (
    'each\n    for_each:\n      items: ["a", "b", "c"]\n      max_concurrency: 2\n'
    '      steps: [{id: one, set: {text: "{{item}}"}}]\n'
    '      collect: {text: "{{steps.one.text}}"}\n'
)
SUB = "sub\n    workflow: inner\n    input_mapping: {did: d, limit: 1}\n    output_mapping: {}\n"


def test_the_first_branch_that_is_done_completes_the_step_and_skips_the_others() -> None:
    parts = inside("race", RACE, {})
    walk = Walk({"one": Progress.PENDING, "two": Progress.DONE})

    assert parts.blocks.advance(parts.step("race"), "race", walk) is Progress.DONE

    assert parts.writer.state.steps["race"].output == {"first": "right"}
    assert parts.writer.state.steps["race/one"].status is StepStatus.SKIPPED


def test_no_more_items_than_allowed_are_in_flight() -> None:
    parts = inside("each", EACH, {ITEMS: ["a", "b", "c"]})
    walk = Walk({"one": Progress.PENDING})

    parts.blocks.advance(parts.step("each"), "each", walk)
    assert walk.prefixes == ["each[0]/", "each[1]/"]

    parts.writer.state.items["each"].dirty.add(1)
    walk.progress["one"] = Progress.DONE
    parts.blocks.advance(parts.step("each"), "each", walk)
    assert walk.prefixes[2:] == ["each[1]/", "each[2]/"]


def test_a_run_that_ended_inside_is_passed_on_and_completes_nothing() -> None:
    for id, text in (("race", RACE), ("each", EACH), ("sub", SUB)):
        parts = inside(id, text, {ITEMS: ["a"]})
        walk = Walk(dict.fromkeys(("one", "two", "note"), Progress.RUN_ENDED))

        assert parts.blocks.advance(parts.step(id), id, walk) is Progress.RUN_ENDED
        assert parts.writer.state.steps[id].phase is Phase.CHILDREN


def test_a_workflow_that_ends_itself_as_refused_fails_its_step() -> None:
    parts = inside("sub", SUB, {"did": "d", "limit": 1})
    parts.blocks.end_workflow("refused", "too much")

    parts.blocks.advance(parts.step("sub"), "sub", Walk({"note": Progress.ENDED}))

    step = parts.writer.state.steps["sub"]
    assert str(step.error) == "FAILED_PRECONDITION: inner ended as refused: too much"


def test_a_failed_child_fails_its_step_once_no_other_child_is_in_flight() -> None:
    parts = inside("race", RACE + "    on_error: {}\n", {})
    parts.interpreter.begin(parts.step("two"), "race/two")
    parts.writer.fail("race/one", StepError("NOT_FOUND", "", "no"))

    parts.blocks.advance(parts.step("race"), "race", Walk({}))

    state = parts.writer.state
    assert state.steps["race/two"].skip_reason == "race/one failed"
    race = state.steps["race"]
    assert (race.status, race.failed_step) == (StepStatus.FAILED, "race/one")


class Walk:
    """Answers for each list of steps, by the id of its first step, and notes what was walked."""

    def __init__(self, progress: dict[str, Progress]) -> None:
        self.progress = progress
        self.prefixes: list[str] = []

    def __call__(self, listed: tuple[Step, ...], prefix: str) -> Progress:
        self.prefixes.append(prefix)
        return self.progress[listed[0].id]


def inside(id: str, text: str, input: dict[str, Any]) -> Parts:
    """Parts of a run that has begun the step."""
    parts = parts_of(steps(text))
    metadata = parts.writer.metadata(parts.step(id), id)
    parts.writer.add(RecordKind.STEP_INTENT, id, {**metadata, "input": input}, attempt=1)
    return parts
