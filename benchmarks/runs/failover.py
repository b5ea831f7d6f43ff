"""Two orchestrators on one PostgreSQL: how long a run stands still when its process is killed."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from mesh.testing import Authority, eventually
from tests.orchestrator.conftest import connect
from tests.orchestrator.fake_services import FakeServices, serve_peers
from tests.orchestrator.payment_requests import finished, payment, status
from tests.orchestrator.processes import environment_of, process

RESUME_TIMEOUT_S = 30.0


async def measure(database: str) -> float:
    """Seconds from the kill of the driver, amid a call, until another makes that call again."""
    fakes = FakeServices()
    fakes.paused["SendPayment"] = asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        authority = Authority(place)
        async with serve_peers(authority, place / "peers", fakes) as peers:
            shared = {"ANYA_DATABASE": database, "ANYA_EVENT_LOOP": "asyncio"}
            one, other = (
                environment_of(authority, place / name, peers) | shared for name in ("a", "b")
            )
            async with (
                process(one) as (doomed, port),
                process(other) as (_, other_port),
                connect(authority, port) as workflows,
                connect(authority, other_port) as others,
            ):
                await workflows.StartRun(request := payment(), timeout=5)
                await eventually(lambda: len(fakes.requests("SendPayment")) == 1)
                doomed.kill()
                killed = time.perf_counter()
                await eventually(
                    lambda: len(fakes.requests("SendPayment")) == 2, within=RESUME_TIMEOUT_S
                )
                took = time.perf_counter() - killed
                fakes.paused["SendPayment"].set()
                run = await finished(others, request.request_id)
    if status(run) != "SUCCEEDED" or fakes.effects["SendPayment"] != 1:
        raise AssertionError(f"the run did not survive: {run}")
    return took
