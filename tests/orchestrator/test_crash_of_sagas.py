"""SIGKILL during waits, items and compensations: each effect still happens once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli.spans import store
from mesh.testing import eventually
from tests.orchestrator.conftest import connect, start_traced, traces_to
from tests.orchestrator.engine.definitions import READ_ITEM, STORE, UNDO, call, indent, steps
from tests.orchestrator.fake_services import FakeServices, serve_peers
from tests.orchestrator.payment_requests import finished, status, uuid7
from tests.orchestrator.processes import environment_of, process

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority

SAGA = steps(
    call("keep", STORE, UNDO),
    "pause\n    wait: {duration: 200ms}",
    'each\n    for_each:\n      items: "{{input.dids}}"\n      steps:\n'
    f"        - id: look{indent(READ_ITEM, 6)}",
    "stop\n    end: {outcome: failed, reason: enough}",
)


@pytest.mark.parametrize(
    "boundary",
    [
        "engine.before_step_done/{run}/each[1]/look",
        "engine.after_intent/{run}/keep/compensate",
    ],
)
async def test_saga_survives_a_kill(
    boundary: str,
    authority: Authority,
    collector: str,
    fakes: FakeServices,
    tmp_path: Path,
) -> None:
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id="example")
    request.input.update({"did": "d", "dids": ["a", "b"]})
    point = {"ANYA_FAILPOINTS": f"{boundary.format(run=request.request_id)}=kill"}

    async with serve_peers(authority, tmp_path, fakes, traces=traces_to(collector)) as peers:
        environment = environment_of(authority, tmp_path, peers)
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with (
            process(environment | point) as (child, port),
            connect(authority, port) as workflows,
        ):
            registered = pb.RegisterWorkflowRequest(definition=SAGA)
            await workflows.RegisterWorkflow(registered, timeout=5)
            await start_traced(authority, port, collector, request)
            assert await child.wait() == -signal.SIGKILL
        async with process(environment) as (_, port), connect(authority, port) as workflows:
            run = await finished(workflows, request.request_id)

    assert (status(run), run.reason) == ("COMPENSATED", "enough")
    assert run.recoveries == 1
    assert fakes.effects["StoreTransactionRecord"] == 2
    assert len({str(sent) for sent in fakes.requests("StoreTransactionRecord")}) == 2
    await eventually(lambda: store.load(tmp_path / "traces.db", run.trace_id).is_whole, within=10)
