"""A signal crosses few files on its way from the servicer to the writer of the store."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from services.orchestrator.__main__ import orchestrator
from services.orchestrator.worker import pollers
from tests.orchestrator.conftest import connect
from tests.orchestrator.signals import AWAITS_SIGNAL, await_status, signal_request, start_run
from tests.sources import ROOT

if TYPE_CHECKING:
    from types import FrameType

    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

MAX_FILES = 8
FOLDERS = ("services/orchestrator/", "mesh/actor/")
ENGINE = "services/orchestrator/engine/"  # counted as one: pure, and entered by transition.py


class PathRecorder:
    """Records the files whose functions are called between two functions."""

    def __init__(self, first: str, last: str) -> None:
        self.files: list[str] = []
        self._first, self._last = first, last
        self._is_recording = self._has_ended = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name
        if event != "call" or self._has_ended:
            return
        self._is_recording |= name == self._first
        file = frame.f_code.co_filename.removeprefix(f"{ROOT}/")
        if not self._is_recording or not file.startswith(FOLDERS):
            return
        station = "services/orchestrator/engine/transition.py" if file.startswith(ENGINE) else file
        if station not in self.files:
            self.files.append(station)
        self._has_ended = name == self._last


async def test_signal_crosses_at_most_eight_files(
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

    print(recorder.files)
    assert recorder.files[-1].endswith("writer.py")
    assert len(recorder.files) <= MAX_FILES, recorder.files
