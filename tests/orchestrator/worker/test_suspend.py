"""A message that arrives during the suspension of its run is received."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from mesh.data.idempotency import IdempotencyKey
from mesh.testing import eventually
from services.orchestrator.actors import run
from services.orchestrator.engine.activations import SignalReceived
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.start import StartRun
from services.orchestrator.store.suspension import Suspensions
from services.orchestrator.worker import worker
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.schedules.schedule_replica import replica

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from mesh.data.database import Transaction
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.model import RunState

CALLER = "spiffe://caller"
ASKS = steps("answer\n    wait_for: {signal: approved}")


class RecordedSuspensions(Suspensions):
    """Records that a suspension was requested."""

    requested = False

    async def suspend(
        self, state: RunState, epoch: int, wake_us: int, *, event_cursor: int = 0
    ) -> bool:
        self.requested = True
        return await super().suspend(state, epoch, wake_us, event_cursor=event_cursor)


async def test_signal_during_the_suspension_of_its_run_resumes_it(
    tmp_path: Path, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SUSPEND_THRESHOLD_S", 0.0)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_S", 0.05)
    may_write = threading.Event()

    async def hold(_: Transaction) -> None:
        may_write.wait()

    async with replica(config, str(tmp_path / "store.db")) as here:
        runs, suspensions = here.store.runs, RecordedSuspensions(here.store.database)
        runs.suspensions = suspensions
        await here.registry.register(ASKS)
        request = StartRun("run", {}, None, "", CALLER)
        key = IdempotencyKey(CALLER, "StartRun", "run", b"")
        await here.worker.start(key, "example", request, "", lambda _: b"")
        blocking = asyncio.create_task(here.store.database.write(hold))
        await eventually(lambda: suspensions.requested)

        key = IdempotencyKey(CALLER, "SignalRun", "s", b"")
        sent = asyncio.create_task(
            here.worker.inbox.send(key, "run", SignalReceived("approved", {}, ""))
        )
        await asyncio.sleep(0)  # it is queued after the other write
        may_write.set()
        await asyncio.gather(blocking, sent)

        await eventually(lambda: runs.has_ended("run"))
        ended = (await runs.load("run")).state

    assert ended.status is RunStatus.SUCCEEDED
