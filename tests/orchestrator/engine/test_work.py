"""No definition and no input makes a turn of a run long: what it costs is bounded before."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from services.orchestrator import definition
from services.orchestrator.engine.record_writer import MAX_TURN_UNITS
from services.orchestrator.engine.records import MAX_PAYLOAD_BYTES
from tests.orchestrator.engine.engine_run import EngineRun, run_of

FREEZING = "{{input.l}}.all(a, !{{input.s}}.matches('(x|y)*z'))"


def document(*steps: dict[str, Any]) -> str:
    return json.dumps({"id": "w", "name": "w", "steps": list(steps)})


def each(items: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": f"each_{steps[0]['id']}",
        "for_each": {"items": items, "steps": list(steps)} | more,
    }


def failed(run: EngineRun) -> tuple[str, str]:
    step = next(step for step in run.state.steps.values() if step.error is not None)
    assert step.error is not None
    return step.error.reason, step.error.message


def test_condition_over_nine_thousand_items_and_a_large_text_is_refused() -> None:
    text = document(each("{{input.i}}", {"id": "s", "condition": FREEZING, "set": {"x": 1}}))
    began = time.process_time()
    run = run_of(text, i=[1, 2, 3], l=list(range(9000)), s="a" * 900_000)

    assert run.status == "FAILED"
    assert failed(run)[0] == "CONDITION_TOO_COSTLY"
    assert time.process_time() - began < 2


def test_refused_condition_is_recorded_without_its_operands_and_replays() -> None:
    text = document({"id": "s", "condition": FREEZING, "set": {"x": 1}})
    run = run_of(text, l=list(range(9000)), s="a" * 900_000)
    condition = run.state.steps["s"].condition

    assert condition == {"expression": FREEZING, "verdict": False, "operands": {}}
    assert run.replayed() == run.state


def test_case_that_is_too_costly_is_refused() -> None:
    cases = [{"when": FREEZING, "steps": [{"id": "s", "set": {"x": 1}}]}]
    text = document({"id": "c", "switch": cases})

    assert failed(run_of(text, l=[1] * 9000, s="a" * 900_000))[0] == "CONDITION_TOO_COSTLY"


def test_conditions_of_a_turn_are_bounded_together() -> None:
    condition = "{{input.l}}.all(a, a >= 0)"
    inner = each("{{input.i}}", {"id": "s", "condition": condition, "set": {"x": 1}})
    run = run_of(document(each("{{input.i}}", inner)), i=list(range(130)), l=list(range(250)))

    assert failed(run)[0] == "RUN_TOO_COSTLY"
    assert run.state.work_units < MAX_TURN_UNITS + 100_000
    assert run.replayed().work_units == run.state.work_units


def test_texts_that_each_item_repeats_are_bounded_together() -> None:
    text = document(each("{{input.i}}", {"id": "s", "set": {"x": "{{input.big}}"}}))
    run = run_of(text, i=list(range(1000)), big="y" * 500_000)

    assert failed(run)[0] == "RUN_TOO_COSTLY"
    assert sum(len(record.encoded) for record in run.journal) < MAX_TURN_UNITS + 2_000_000


@pytest.mark.parametrize(
    "value",
    [
        {f"k{at}": "{{input.big}}" for at in range(100)},
        "{{input.big}}" * 100,
        ["{{input.l}}"] * 100,
        "in a text: {{input.l}}",
    ],
    ids=["texts", "one text", "lists", "list in a text"],
)
def test_mapping_that_repeats_a_large_value_is_refused_before_it_is_written(value: Any) -> None:
    text = document(
        {"id": "s", "set": {"x": value}}, {"id": "t", "set": {"a": "{{input.big}}{{input.l}}"}}
    )
    began = time.process_time()
    run = run_of(text, big="y" * 400_000, l=[0] * 100_000)

    assert run.status == "FAILED"
    assert max(len(record.encoded) for record in run.journal) <= MAX_PAYLOAD_BYTES
    assert time.process_time() - began < 1


def test_collected_items_are_refused_before_they_are_written() -> None:
    each_item = each("{{input.i}}", {"id": "s", "set": {"x": 1}}, collect={"all": "{{input.big}}"})
    run = run_of(document(each_item), i=list(range(1000)), big="y" * 7000)

    assert run.status == "FAILED"
    assert "too large" in failed(run)[1]


def test_step_that_reads_too_many_paths_is_refused_at_registration() -> None:
    problems = definition.check(document({"id": "s", "set": {"x": "{{input.a}}" * 200}}))

    assert [problem.message for problem in problems] == [
        "s reads more than 128 paths: pass on what holds them"
    ]
