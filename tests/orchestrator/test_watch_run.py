"""WatchRun's view of changes: they add up to the run, and their cost does not grow with it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given, settings

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli import resumption
from cli.runs import RunFollower
from mesh.testing import eventually
from services.orchestrator.engine import erase
from services.orchestrator.engine.activations import SignalReceived
from services.orchestrator.engine.fold import evolve
from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.outcome import public_reason
from services.orchestrator.engine.records import Record, RecordKind, decode
from services.orchestrator.servicers import views
from services.orchestrator.servicers.waits import format_update
from tests.orchestrator.engine.cost import lines_run
from tests.orchestrator.engine.definitions import EVERYTHING, NESTED
from tests.orchestrator.engine.engine_run import EngineRun, paying, run_of
from tests.orchestrator.engine.random_outcomes import HAPPENINGS, Services, live
from tests.orchestrator.payment_requests import payment
from tests.orchestrator.signals import AWAITS_SIGNAL, await_status, signal_request, start_run
from tests.profile import examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

TRACE = "a" * 32
ITEMS = 1000  # two steps each
MANY: dict[str, Any] = {
    "id": "many",
    "name": "Many steps",
    "steps": [
        {"id": "begin", "wait_for": {"signal": "go"}},
        {
            "id": "each",
            "for_each": {
                "items": "{{input.items}}",
                "max_concurrency": 1,
                "steps": [
                    {"id": "first", "set": {"text": "item {{index}}"}},
                    {"id": "again", "set": {"text": "{{steps.first.text}} again"}},
                ],
            },
        },
    ],
}


def stored(records: Sequence[Record]) -> list[Record]:
    """Returns the records as the store returns them."""
    return [decode(*record[:5], record.encoded) for record in records]


def erased(run: EngineRun) -> list[Record]:
    """Returns the records of the same run after its erasure."""
    why = public_reason(run.state)
    records = list(erase.erase(run.journal, why))
    end = Record.write(
        len(records) + 1,
        RecordKind.ERASED,
        "",
        0,
        run.now_us,
        {"requester": "me", "public_reason": why},
    )
    return [*records, end]


def check_changes_are_the_run(records: Sequence[Record]) -> None:
    state, followed = RunState("run"), RunFollower()
    for record in stored(records):
        evolve(state, record)
        followed.apply(format_update(state, record, TRACE, pb.RUN_VIEW_CHANGES))
        assert followed.run == views.format_state(state, TRACE, pb.RUN_VIEW_FULL), record


@pytest.mark.parametrize("text", [EVERYTHING, NESTED], ids=["everything", "nested"])
@settings(deadline=None, max_examples=examples(40))
@given(happenings=HAPPENINGS)
def test_changes_of_any_run_add_up_to_the_run(text: str, happenings: list[tuple[int, str]]) -> None:
    run = run_of(text, did="d")
    live(run, Services(), happenings)

    check_changes_are_the_run(run.journal)
    if run.state.finished:
        check_changes_are_the_run(erased(run))


def test_changes_of_a_payment_and_its_erasure_add_up_to_the_run() -> None:
    run = paying()
    run.finish()

    check_changes_are_the_run(run.journal)
    check_changes_are_the_run(erased(run))
    assert run.status == "SUCCEEDED"


def test_watch_sends_the_whole_run_after_its_erasure() -> None:
    run = paying()
    run.finish()
    state = RunState("run")
    *_, last = stored(erased(run))
    for record in stored(erased(run)):
        evolve(state, record)

    update = format_update(state, last, TRACE, pb.RUN_VIEW_CHANGES)

    assert update.view == pb.RUN_VIEW_FULL
    assert update.run == views.format_state(state, TRACE, pb.RUN_VIEW_FULL)


def test_cost_of_a_change_does_not_grow_with_the_run() -> None:
    short, long = costs_of_changes(items=5), costs_of_changes(items=500)

    assert (len(short), len(long)) == (10, 1000)
    assert sum(long) / len(long) <= 1.1 * sum(short) / len(short)


def costs_of_changes(items: int) -> list[int]:
    """Returns the lines of Python executed to format each record of an item."""
    run = run_of(json.dumps(MANY), items=["a"] * items)
    run.apply(SignalReceived("go", {}, "", 1))
    state, costs = RunState("run"), []
    for record in stored(run.journal):
        evolve(state, record)
        if record.path.startswith("each["):
            tell = partial(format_update, state, record, TRACE, pb.RUN_VIEW_CHANGES)
            costs.append(lines_run(tell))
    return costs


async def begin_many(workflows: WorkflowServiceAsyncStub, run_id: str) -> None:
    definition = json.dumps(MANY)
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=definition), timeout=5)
    request = pb.StartRunRequest(request_id=run_id, workflow_id="many")
    request.input.update({"items": ["a"] * ITEMS})
    await workflows.StartRun(request, timeout=5)


async def release(workflows: WorkflowServiceAsyncStub, run_id: str) -> None:
    sent = pb.SignalRunRequest(request_id="s", run_id=run_id, signal="go")
    await workflows.SignalRun(sent, timeout=5)


async def test_size_of_a_change_does_not_grow_with_the_run_and_the_watch_resumes(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    await begin_many(workflows, "run")
    wanted = pb.WatchRunRequest(run_id="run", view=pb.RUN_VIEW_CHANGES)
    watch = workflows.WatchRun(wanted, timeout=60)
    seen, followed = [await anext(aiter(watch))], RunFollower()
    await release(workflows, "run")

    async for update in watch:
        seen.append(update)
        if len(seen) == ITEMS:
            break
    watch.cancel()
    wanted.after_sequence = seen[-1].sequence
    seen += [update async for update in workflows.WatchRun(wanted, timeout=60)]

    for update in seen:
        followed.apply(update)
    shown = (await workflows.GetRun(pb.GetRunRequest(run_id="run"), timeout=20)).run
    assert followed.run == shown
    assert len(shown.steps) > 2 * ITEMS
    assert [update.sequence for update in seen] == list(range(1, len(seen) + 1))
    first, *others = seen
    assert first.view == pb.RUN_VIEW_FULL
    assert first.run.input == shown.input
    assert {update.view for update in others} == {pb.RUN_VIEW_CHANGES}
    inner = [
        update.ByteSize()
        for update in others
        if {"each["} & {step.path[:5] for step in update.run.steps}
    ]
    assert len(inner) == 2 * ITEMS
    assert max(inner) <= min(inner) + 20  # digits of numbers
    assert shown.ByteSize() > 500 * max(inner)


async def test_view_of_changes_is_refused_outside_a_watch(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    request = payment()
    waits = pb.StartRunRequest()
    waits.CopyFrom(request)
    waits.view = pb.RUN_VIEW_CHANGES
    shows = pb.GetRunRequest(run_id=request.request_id, view=pb.RUN_VIEW_CHANGES)

    with pytest.raises(grpc.aio.AioRpcError, match="for WatchRun only") as started:
        await workflows.StartRun(waits, timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="for WatchRun only") as shown:
        await workflows.GetRun(shows, timeout=5)

    for refused in (started, shown):
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_client_follows_a_run_without_updates_until_its_end(
    workflows: WorkflowServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumption, "MAX_SILENCE_S", 0.0)
    run_id = await start_run(workflows, AWAITS_SIGNAL)
    await await_status(workflows, run_id, "WAITING")
    opened: list[int] = []

    def open_after(sequence: int) -> Any:
        opened.append(sequence)
        request = pb.WatchRunRequest(run_id=run_id, after_sequence=sequence)
        return workflows.WatchRun(request, timeout=0.1)

    async def follow() -> list[pb.WatchRunResponse]:
        return [update async for update in resumption.resumed(open_after)]

    following = asyncio.create_task(follow())
    await eventually(lambda: len(opened) > 3 or following.done())
    await workflows.SignalRun(signal_request(run_id), timeout=5)
    update = await following

    assert update[-1].run.status == pb.RUN_STATUS_SUCCEEDED
    assert [one.sequence for one in update] == list(range(1, len(update) + 1))
