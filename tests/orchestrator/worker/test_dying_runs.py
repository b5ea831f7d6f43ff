"""A run that takes its process down each time can be ended, and is set aside at last."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Never

from mesh.data.idempotency import IdempotencyKey
from mesh.testing import eventually
from services.orchestrator.actors.run import RunActor
from services.orchestrator.engine.activations import CancelRequested
from services.orchestrator.engine.interpreter import Interpreter
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.recovery import MAX_DEATHS
from services.orchestrator.engine.start import StartRun
from services.orchestrator.worker import worker
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.schedules.schedule_replica import replica
from tests.orchestrator.worker.deliveries import CALLER, signal_key, signal_named

if TYPE_CHECKING:
    import pytest

    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.schedules.schedule_replica import Replica

ASKS = steps("answer\n    wait_for: {signal: approved}")


async def start(here: Replica) -> None:
    await here.registry.register(ASKS)
    key = IdempotencyKey(CALLER, "StartRun", "run", b"")
    await here.worker.start(
        key, "example", StartRun("run", {}, None, "", CALLER), "", lambda _: b""
    )


async def kinds(here: Replica) -> list[RecordKind]:
    return [record.kind for record in (await here.store.runs.load("run")).records]


async def hang(*_: object) -> Never:
    await asyncio.Event().wait()
    raise AssertionError


async def restart(config: OrchestratorConfig, location: str, number: int) -> None:
    """Claims the run in a process that ends between two turns."""
    async with replica(config, location) as here:

        async def ended() -> bool:
            found = await kinds(here)
            recovered = found.count(RecordKind.RECOVERED)
            return (recovered, found.count(RecordKind.SETTLED)) == (number + 1, (number + 1) // 2)

        await eventually(ended)


async def die_in_a_turn(config: OrchestratorConfig, location: str, deaths: int) -> None:
    """Claims the run in one process after another, which each end amid the turn that follows."""
    for death in range(1, deaths + 1):
        async with replica(config, location) as here:

            async def recovered(here: Replica = here, death: int = death) -> bool:
                return (await kinds(here)).count(RecordKind.RECOVERED) == death

            await eventually(recovered)


async def test_run_whose_turn_ended_five_processes_is_set_aside(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(config, location) as here:
        await start(here)
    with monkeypatch.context() as patch:
        patch.setattr(RunActor, "_read_cancel", hang)
        patch.setattr(worker, "DRAIN_TIMEOUT_S", 0.0)
        await die_in_a_turn(config, location, MAX_DEATHS)

    async with replica(config, location) as here:
        await eventually(lambda: here.store.runs.has_ended("run"))
        state = (await here.store.runs.load("run")).state

    assert state.status is RunStatus.NEEDS_ATTENTION
    assert state.reason.startswith(f"{MAX_DEATHS} processes died inside the same turn")


async def test_restarts_between_turns_are_no_deaths(
    location: str, config: OrchestratorConfig
) -> None:
    async with replica(config, location) as here:
        await start(here)
    for number in range(MAX_DEATHS + 1):
        await restart(config, location, number)
    async with replica(config, location) as here:
        await here.worker.inbox.send(signal_key("a"), "run", signal_named("approved"), b"reply")
        await eventually(lambda: here.store.runs.has_ended("run"))
        state = (await here.store.runs.load("run")).state

    assert state.status is RunStatus.SUCCEEDED


async def test_cancelled_run_ends_without_beginning_anything(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(config, location) as here:
        await start(here)

    def fail(_: Interpreter) -> Never:
        raise ZeroDivisionError

    async with replica(config, location) as here:
        monkeypatch.setattr(RunActor, "_begin", hang)
        messages = here.store.runs.messages
        await messages.send(signal_key("a"), "run", signal_named("other"))
        await messages.send(signal_key("b"), "run", CancelRequested("it hangs", CALLER))
        monkeypatch.setattr(worker, "DRAIN_TIMEOUT_S", 0.0)
    monkeypatch.undo()
    monkeypatch.setattr(Interpreter, "advance", fail)
    async with replica(config, location) as here:
        await eventually(lambda: here.store.runs.has_ended("run"))
        state = (await here.store.runs.load("run")).state

    assert state.status is RunStatus.CANCELLED
