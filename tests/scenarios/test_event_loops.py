"""Every service starts, and stops on SIGTERM, on each of the two event loops."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.home import SERVICES
from tests.scenarios.single_service import create_home, environment_of

if TYPE_CHECKING:
    from mesh.testing import Authority

STOP_WITHIN_S = 30


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_service_starts_and_stops_on_the_loop_that_is_set(
    authority: Authority, tmp_path: Path, service: str, loop: str
) -> None:
    home = create_home(service, authority, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", f"services.{service}"],
        env=environment_of(home) | {"ANYA_EVENT_LOOP": loop},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_WITHIN_S)

    assert json.loads(line)["ready"]["event_loop"] == loop
    assert code == 0
