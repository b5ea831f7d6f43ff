"""A run that is sent something just as it falls asleep: it is told, or it is taken up again."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from mesh.inbox import RequestKey
from mesh.testing import eventually
from services.orchestrator.driving import performing, runner
from services.orchestrator.engine.events import Signalled
from services.orchestrator.engine.starting import StartRun
from services.orchestrator.engine.state import RunStatus
from services.orchestrator.journal.sleeping import Sleep
from tests.orchestrator.engine.everything import steps
from tests.orchestrator.scheduling import replica

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from mesh.database import Transaction
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.state import RunState

CALLER = "spiffe://caller"
ASKS = steps("answer\n    wait_for: {signal: approved}")


class Watched(Sleep):
    """Tells when a run is about to fall asleep."""

    asked = False

    async def fall_asleep(
        self, state: RunState, epoch: int, wake_us: int, *, heard: int = 0
    ) -> bool:
        self.asked = True
        return await super().fall_asleep(state, epoch, wake_us, heard=heard)


async def test_a_signal_of_the_commit_in_which_its_run_falls_asleep_wakes_it(
    tmp_path: Path, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performing, "AHEAD", 0.0)
    monkeypatch.setattr(runner, "IDLE", 0.05)
    may_write = threading.Event()

    async def hold(_: Transaction) -> None:
        may_write.wait()

    async with replica(config, str(tmp_path / "store.db")) as here:
        runs, sleep = here.journal.runs, Watched(here.journal.database)
        runs.sleep = sleep
        await here.catalogue.register(ASKS)
        request = StartRun("run", {}, None, "", CALLER)
        key = RequestKey(CALLER, "StartRun", "run", b"")
        await here.runner.start(key, "example", request, "", lambda _: b"")
        held = asyncio.create_task(here.journal.database.write(hold))
        await eventually(lambda: sleep.asked)

        key = RequestKey(CALLER, "SignalRun", "s", b"")
        sent = asyncio.create_task(here.runner.send(key, "run", Signalled("approved", {}, "")))
        await asyncio.sleep(0)  # it is asked for, behind the other
        may_write.set()
        await asyncio.gather(held, sent)

        await eventually(lambda: runs.has_ended("run"))
        ended = (await runs.load("run")).state

    assert ended.status is RunStatus.SUCCEEDED
