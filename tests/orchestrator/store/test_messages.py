"""Messages to runs on both databases and between replicas: stored once, in order."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted
from mesh.testing import eventually
from services.orchestrator.engine.activations import CancelRequested, SignalReceived
from services.orchestrator.store import messages
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.payment_requests import finished, status
from tests.orchestrator.processes import environment_of, process
from tests.orchestrator.signals import await_status, signal_request, start_run
from tests.orchestrator.store.run_stores import begin, fails, opened_runs

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority


def key(request_id: str) -> IdempotencyKey:
    return IdempotencyKey("spiffe://caller", "SignalRun", request_id, b"body")


def named(name: str, position: int = 0) -> SignalReceived:
    return SignalReceived(name, {"number": 1}, "", position)


async def test_messages_are_read_in_order_after_a_position(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        await begin(runs, registry)
        for name in ("one", "one", "two"):
            await runs.messages.send(key(name), "run", named(name))
        await runs.messages.send(key("cancel"), "run", CancelRequested("why", "who"))

        waiting = await runs.messages.read_after("run", position=0)
        behind = await runs.messages.read_after("run", position=2)
        recent = await runs.messages.recent_positions()

    assert waiting == [named("one", 1), named("two", 2), CancelRequested("why", "who", 3)]
    assert behind == waiting[2:]
    assert recent == {"run": 3}


async def test_second_cancellation_is_not_stored(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        await begin(runs, registry)
        for request_id in ("a", "b"):
            await runs.messages.send(key(request_id), "run", CancelRequested("", "who"))

        assert len(await runs.messages.read_after("run", position=0)) == 1


async def test_run_with_too_many_signals_still_accepts_a_cancellation(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_SIGNALS", 2)
    async with opened_runs(location) as (runs, registry):
        await begin(runs, registry)
        for name in ("one", "two"):
            await runs.messages.send(key(name), "run", named(name))

        with pytest.raises(ResourceExhausted):
            await runs.messages.send(key("three"), "run", named("three"))
        await runs.messages.send(key("cancel"), "run", CancelRequested("", "who"))


async def test_message_to_an_ended_or_unknown_run_is_refused(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        ended = fails(await begin(runs, registry))
        await runs.append(ended.state, 0, ended.records)

        with pytest.raises(FailedPrecondition) as caught:
            await runs.messages.send(key("a"), "run", named("one"))
        with pytest.raises(NotFound):
            await runs.messages.send(key("b"), "unknown", named("one"))

    assert caught.value.reason == Reason.RUN_ENDED


async def test_signal_through_another_replica_survives_a_kill(
    authority: Authority, tmp_path: Path, peers: dict[str, str], new_postgres_database: str
) -> None:
    shared = {"ANYA_DATABASE": new_postgres_database, "ANYA_LEASE_SECONDS": "2"}
    one, other = (
        environment_of(authority, tmp_path / name, peers) | shared for name in ("one", "other")
    )
    two = steps("one\n    wait_for: {signal: approved}", "two\n    wait_for: {signal: approved}")

    async with (
        process(one) as (doomed, port),
        process(other) as (_, other_port),
        connect(authority, port) as workflows,
        connect(authority, other_port) as others,
    ):
        run_id = await start_run(workflows, two)
        await await_status(workflows, run_id, "WAITING")
        await others.SignalRun(signal_request(run_id, "first"), timeout=5)
        await _has_started(others, run_id, "two")
        doomed.send_signal(signal.SIGKILL)
        await others.SignalRun(signal_request(run_id, "second"), timeout=5)
        run = await finished(others, run_id)

    assert status(run) == "SUCCEEDED"
    assert run.recoveries == 1


async def _has_started(workflows: WorkflowServiceAsyncStub, run_id: str, path: str) -> None:
    async def holds() -> bool:
        found = await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)
        return path in {step.path for step in found.run.steps}

    await eventually(holds)
