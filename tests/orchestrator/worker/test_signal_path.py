"""A signal crosses few stations on its way from the servicer to the writer of the store."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from services.orchestrator.__main__ import orchestrator
from services.orchestrator.worker import pollers
from tests.orchestrator.conftest import connect
from tests.orchestrator.signals import AWAITS_SIGNAL, await_status, signal_request, start_run
from tests.sources import ROOT

if TYPE_CHECKING:
    from types import FrameType

    import pytest

    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

MAX_STATIONS = 8
# Two of them are packages: the rules, which do no I/O, and the actors of the mesh.
STATIONS = {
    "services/orchestrator/definition/": "the rules",
    "services/orchestrator/engine/": "the rules",
    "mesh/actor/": "mesh.actor",
    "services/orchestrator/actors/": "the run",
    "services/orchestrator/": "",
}


class PathRecorder:
    """Records the stations whose functions are called from one function until another."""

    def __init__(self, first: str, last: str) -> None:
        self.stations: list[str] = []
        self._first, self._last = first, last
        self._is_recording = self._has_ended = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname
        self._is_recording |= name == self._first
        if event != "call" or self._has_ended or not self._is_recording:
            return
        file = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
        for folder, title in STATIONS.items():
            if file.startswith(folder):
                station = title or file
                if station not in self.stations:
                    self.stations.append(station)
                break
        self._has_ended = name == self._last


async def test_signal_crosses_at_most_eight_stations(
    location: str,
    config: OrchestratorConfig,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pollers, "POLL_INTERVAL_S", 60.0)  # of other files, at the same time
    is_sqlite = "://" not in location
    writer = "SqliteWriter._write" if is_sqlite else "PostgresWriter._write"
    recorder = PathRecorder("WorkflowServicer.SignalRun", writer)
    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        run_id = await start_run(workflows, AWAITS_SIGNAL)
        await await_status(workflows, run_id, "WAITING")
        sys.setprofile(recorder)
        try:
            await workflows.SignalRun(signal_request(run_id), timeout=10)
        finally:
            sys.setprofile(None)

    assert recorder.stations[-1].endswith("writer.py")
    assert len(recorder.stations) <= MAX_STATIONS, recorder.stations
