"""A long turn continues in slices, and does in them what it would do in one."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from services.orchestrator.engine import start as rules
from services.orchestrator.engine.activations import Continued, SignalReceived, Started
from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.record_writer import SLICE_S
from services.orchestrator.engine.transition import Transition
from tests.orchestrator.engine.engine_run import POLICY, EngineRun, load, replay

if TYPE_CHECKING:
    from services.orchestrator.engine.records import Record

SET: dict[str, Any] = {"id": "s", "set": {"x": "{{index}}"}}
WAIT: dict[str, Any] = {"id": "w", "wait_for": {"signal": "go"}}


def document(*steps: dict[str, Any]) -> str:
    return json.dumps({"id": "w", "name": "w", "steps": list(steps)})


def each(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    inside = {"items": "{{input.i}}", "steps": list(steps)}
    return {"id": f"e_{steps[0]['id']}", "for_each": inside | more}


DEFINITIONS = {
    "items": document(each(SET, max_concurrency=3)),
    "nested": document(
        each(each(SET, max_concurrency=2), max_concurrency=2), {"id": "l", "set": {"x": 1}}
    ),
    "branches": document(
        {
            "id": "p",
            "parallel": {"branches": {"a": [each(SET)], "b": [{"id": "t", "set": {"x": 1}}]}},
        }
    ),
    "failures": document(
        each(
            {"id": "s", "condition": "{{item}} / ({{item}} - 3) >= 0", "set": {"x": 1}},
            on_item_error="continue",
        )
    ),
}


def started(run: EngineRun, per_slice: int) -> Transition:
    """Begins the run with a clock by which so many steps fit into a slice."""
    ticks = count()
    transition = rules.start(
        run.workflow,
        run.request(),
        POLICY,
        network="regtest",
        at_us=run.now_us,
        jitter=0.5,
        clock=lambda: next(ticks) * SLICE_S / per_slice,
    )
    transition.apply(Started())
    return transition


def begin(text: str, items: int, per_slice: int) -> tuple[Transition, list[Record], int]:
    """Runs the first turn in slices of so many steps; returns their records and number too."""
    run = EngineRun(load(text), {"i": list(range(items))})
    transition = started(run, per_slice)
    records, slices = list(transition.records), 1
    while transition.is_unfinished:
        transition.begin(run.now_us, 0.5, continues=True)
        transition.apply(Continued())
        records += transition.records
        slices += 1
    return transition, records, slices


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("per_slice", [1, 3])
def test_turn_in_slices_does_what_it_does_in_one(name: str, per_slice: int) -> None:
    sliced, records, slices = begin(DEFINITIONS[name], 6, per_slice)
    whole, _, one = begin(DEFINITIONS[name], 6, 1_000_000)

    assert one == 1
    assert slices > 1
    assert sliced.state.finished
    assert outcomes(sliced) == outcomes(whole)
    assert replay("run", records) == sliced.state


def outcomes(transition: Transition) -> dict[str, tuple[str, Any]]:
    steps = transition.state.steps
    return {path: (steps[path].status.value, steps[path].output) for path in sorted(steps)}


def test_state_that_another_process_folds_between_slices_continues() -> None:
    _, records, _ = begin(DEFINITIONS["nested"], 6, 1)
    stopped = fold("run", [record.copy() for record in records[: len(records) // 2]])
    transition = Transition(load(DEFINITIONS["nested"]), stopped, POLICY, stopped.updated_us, 0.5)

    transition.apply(Continued())

    assert transition.state.finished
    assert transition.state.status == "SUCCEEDED"


def test_activation_of_an_ended_step_leaves_the_rest_of_the_turn_to_come() -> None:
    run = EngineRun(load(document(each(SET), WAIT)), {"i": [0] * 9})
    transition = started(run, 1)
    assert transition.is_unfinished

    transition.begin(run.now_us, 0.5)
    transition.apply(SignalReceived("go", {}, "", 1), proceeds=False)

    assert transition.is_unfinished
