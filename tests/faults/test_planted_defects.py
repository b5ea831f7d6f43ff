"""The evidence of fault trials finds defects that are planted in services."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from cli import payment_client, runs
from cli.connection import connect
from tests.faults import evidence, funded_mesh
from tests.faults.deployment import Store, deploy
from tests.faults.fault_injection import FaultInjection
from tests.faults.fault_schedule import MIN_AMOUNT_SAT, FaultPlan, PlannedPayment
from tests.scenarios.kill_points import arm_failpoints, paused, scenario_mesh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.scenarios.kill_points import ScenarioMesh

DEFECTS = Path(__file__).with_name("defects")
PLAN = FaultPlan(
    seed=0,
    payments=tuple(
        PlannedPayment(number=number, payer=0, recipient=0, amount_sat=MIN_AMOUNT_SAT + number)
        for number in range(2)
    ),
    faults=(),
)
TXID = r"'[0-9a-f]{64}'"


@pytest.mark.parametrize(
    ("planted", "points", "found"),
    [
        ("", {"bitcoin": "payment.after_commit=kill"}, None),
        (
            "twice",
            {"bitcoin": "payment.after_commit=kill"},
            rf"payment none, transactions \[{TXID}, {TXID}\], records of \[{TXID}\]",
        ),
        ("lost", {}, rf"payment CONFIRMED, transactions \[{TXID}\], records of \[\]"),
    ],
    ids=["no defect", "an attempt is a payment", "a record is lost"],
)
async def test_planted_defect_is_found(
    planted: str, points: Mapping[str, str], found: str | None, tmp_path: Path
) -> None:
    extra = {"PYTHONPATH": str(DEFECTS), "PLANTED": planted}
    async with deploy(tmp_path / "home", Store.SQLITE, extra=extra) as deployment:
        channels, *_ = deployment.routes
        funded = await funded_mesh.fund(deployment.home, channels, payers=1, shops=1, coins=9)
        await arm_failpoints(deployment.home, points)
        observed = await FaultInjection(deployment, funded, PLAN).run()
        gathered = await evidence.gather(channels, funded, observed)
        contradictions = evidence.contradictions(gathered, observed)

    if found is None:
        assert contradictions == []
    else:
        assert re.search(found, "\n".join(contradictions)), contradictions


def test_query_is_retried_until_a_killed_service_is_back(tmp_path: Path) -> None:
    with scenario_mesh(tmp_path / "home") as mesh:
        listed = asyncio.run(_listed_while_struck(mesh))

    assert listed == []


async def _listed_while_struck(mesh: ScenarioMesh) -> list[str]:
    async with connect(mesh.home) as channels:
        orchestrator = await mesh.pid("orchestrator")
        with paused(mesh.supervisor):  # keeps the service down
            os.kill(orchestrator, signal.SIGKILL)
            asking = asyncio.create_task(evidence.listed(channels))
            with pytest.raises(grpc.aio.AioRpcError):  # as the first question, before this one
                await runs.get(channels, payment_client.new_id())
        return await asking
