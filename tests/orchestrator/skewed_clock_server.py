"""An orchestrator on a host whose clock is wrong by ``ANYA_TEST_SKEW`` seconds."""

from __future__ import annotations

import os
import sys
import time

from mesh.clock import SystemClock

SKEW_S = float(os.environ["ANYA_TEST_SKEW"])

nanoseconds, wall = time.time_ns, SystemClock.wall


def wrong_wall(self: SystemClock) -> float:
    return wall(self) + SKEW_S


# Not time.time: gRPC compares it with deadlines that its core keeps by the true clock.
time.time_ns = lambda: nanoseconds() + int(SKEW_S * 1e9)
setattr(SystemClock, "wall", wrong_wall)  # noqa: B010

if __name__ == "__main__":
    from mesh.process import run
    from services.orchestrator.__main__ import orchestrator
    from services.orchestrator.config import OrchestratorConfig

    sys.exit(run("orchestrator", OrchestratorConfig.from_environment, orchestrator))
