"""A payment whose proofs expire while bitcoin is down is refused, and nothing is signed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli import payment_client, runs
from cli.connection import connect
from tests.faults.payment_clients import retry_until_answered, state_word
from tests.scenarios.kill_points import (
    ScenarioMesh,
    arm_failpoints,
    paused,
    scenario_mesh,
    until_stopped,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cli.connection import Channels

PROOF_LIFETIME_S = 5
CALLS = 25  # failures that open a circuit breaker
AMOUNT_SAT = 500_000


@pytest.fixture(scope="module")
def mesh(
    databases: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScenarioMesh]:
    brief = {**databases, "ANYA_PROOF_SECONDS": str(PROOF_LIFETIME_S)}
    with scenario_mesh(tmp_path_factory.mktemp("brief") / "home", brief) as mesh:
        yield mesh


async def test_payment_is_refused_if_its_proofs_expire_while_the_circuit_is_open(
    mesh: ScenarioMesh,
) -> None:
    payment_id = payment_client.new_id()
    point = f"engine.before_intent/{payment_id}/execute_payment"
    await arm_failpoints(mesh.home, {"orchestrator": f"{point}=stop"})
    orchestrator = await mesh.pid("orchestrator")

    async with connect(mesh.home) as channels:
        proposal = await retry_until_answered(
            lambda: mesh.propose(channels, AMOUNT_SAT, payment_id)
        )
        await retry_until_answered(lambda: payment_client.send(channels, proposal))
        await until_stopped(orchestrator)
        proved_at = time.monotonic()
        bitcoin = await mesh.pid("bitcoin")
        with paused(mesh.supervisor):  # keeps bitcoin down
            os.kill(bitcoin, signal.SIGKILL)
            os.kill(orchestrator, signal.SIGCONT)
            blocked = await _until_circuit_open(channels, payment_id)
            await _until_expired(channels, payment_id, proved_at)
        run = await runs.finish(channels, payment_id)
        shown = await retry_until_answered(lambda: payment_client.get(channels, payment_id))

        assert "BREAKER_OPEN" in blocked.reason
        assert runs.status_word(run.status) == "REFUSED", runs.lines(run)
        assert "PROOF_EXPIRED" in run.reason
        assert not shown.HasField("txid")
        assert not shown.HasField("state") or state_word(shown.state) == "CANCELLED"
        assert await mesh.received(channels, AMOUNT_SAT) == []


async def _until_circuit_open(channels: Channels, payment_id: str) -> pb.Run:
    """Makes queries of the payment, which fail and open the circuit breaker."""

    async def look() -> None:
        for _ in range(CALLS):
            await payment_client.get(channels, payment_id)

    looking = asyncio.create_task(look())
    async for update in runs.watch(channels, payment_id):
        if update.run.status == pb.RUN_STATUS_CIRCUIT_OPEN:
            await looking
            return update.run
    raise AssertionError(runs.lines(update.run))


async def _until_expired(channels: Channels, payment_id: str, proved_at: float) -> None:
    """Waits until all proofs have expired, while the run waits for bitcoin."""
    while time.monotonic() < proved_at + PROOF_LIFETIME_S:
        run = await runs.get(channels, payment_id)
        assert run.status not in runs.ENDED, runs.lines(run)
