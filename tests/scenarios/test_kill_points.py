"""Payments of a whole mesh whose services are killed or stopped before or after their commits."""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from cli import payment_client, runs
from cli.connection import connect
from tests.faults.payment_clients import retry_until_answered, state_word
from tests.scenarios.kill_points import (
    SEND,
    ScenarioMesh,
    arm_failpoints,
    scenario_mesh,
    until_stopped,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cli.connection import Channels

RECORD = "anya.web5.v1.RecordService/StoreTransactionRecord"
EFFECTS = {
    "web5": "anya.web5.v1.IdentityService/VerifyIdentity",
    "ml": "anya.ml.v1.RiskService/AssessFraudRisk",
    "bitcoin": SEND,
}
AMOUNTS = count(300_000)  # each payment is identified by its amount


@pytest.fixture(scope="module")
def mesh(
    databases: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScenarioMesh]:
    with scenario_mesh(tmp_path_factory.mktemp("struck") / "home", databases) as mesh:
        yield mesh


async def expect_made_once(
    mesh: ScenarioMesh, channels: Channels, run: pb.Run, amount_sat: int
) -> None:
    """Checks that run, chain and records agree on one payment."""
    outcome = payment_client.outcome(run)
    assert outcome.status == "SUCCEEDED", runs.lines(run)
    assert await mesh.received(channels, amount_sat) == [outcome.txid]
    assert await mesh.records(channels, outcome.record_tenant, run.run_id) == 1


@pytest.mark.parametrize(
    ("point", "engine_point"),
    [
        ("idempotency.before_commit", "engine.before_step_done"),
        ("idempotency.before_reply", "engine.after_step_done"),
    ],
    ids=["before", "behind"],
)
async def test_payment_is_made_once_if_each_service_is_killed_at_its_commit(
    mesh: ScenarioMesh, point: str, engine_point: str
) -> None:
    payment_id, amount_sat = payment_client.new_id(), next(AMOUNTS)
    died = await mesh.restarts()
    points = {name: f"{point}/{method}=kill" for name, method in EFFECTS.items()}
    await arm_failpoints(
        mesh.home, points | {"orchestrator": f"{engine_point}/{payment_id}/execute_payment=kill"}
    )

    async with connect(mesh.home) as channels:
        proposal = await retry_until_answered(
            lambda: mesh.propose(channels, amount_sat, payment_id)
        )
        await retry_until_answered(lambda: payment_client.send(channels, proposal))
        run = await runs.finish(channels, payment_id)

        await expect_made_once(mesh, channels, run, amount_sat)
    assert await mesh.restarts() == {name: times + 1 for name, times in died.items()}


@pytest.mark.parametrize("point", ["idempotency.before_commit", "idempotency.before_reply"])
async def test_record_is_stored_once_if_web5_is_killed_at_its_commit(
    mesh: ScenarioMesh, point: str
) -> None:
    amount_sat, died = next(AMOUNTS), await mesh.restarts()
    await arm_failpoints(mesh.home, {"web5": f"{point}/{RECORD}=kill"})

    async with connect(mesh.home) as channels:
        proposal = await retry_until_answered(lambda: mesh.propose(channels, amount_sat))
        await retry_until_answered(lambda: payment_client.send(channels, proposal))
        run = await runs.finish(channels, proposal.intent.payment_id)

        await expect_made_once(mesh, channels, run, amount_sat)
    assert await mesh.restarts() == died | {"web5": died["web5"] + 1}


async def test_deadline_exceeded_after_the_commit_is_unknown_until_the_payment_is_found(
    mesh: ScenarioMesh,
) -> None:
    amount_sat = next(AMOUNTS)
    await arm_failpoints(mesh.home, {"bitcoin": f"idempotency.before_reply/{SEND}=stop"})
    pid = await mesh.pid("bitcoin")

    async with connect(mesh.home) as channels:
        proposal = await retry_until_answered(lambda: mesh.propose(channels, amount_sat))
        payment_id = proposal.intent.payment_id
        await retry_until_answered(lambda: payment_client.send(channels, proposal))
        try:
            await until_stopped(pid)
            unheard = await _until_uncertain(channels, payment_id)
            seen = await payment_client.get(channels, payment_id)
        finally:
            os.kill(pid, signal.SIGCONT)
        run = await runs.finish(channels, payment_id)

        assert _step(unheard).error.code == "DEADLINE_EXCEEDED"
        assert seen.bitcoin_answer == payment_pb2.BITCOIN_ANSWER_UNAVAILABLE
        assert not seen.HasField("txid")
        assert _step(run).attempts > 1
        await expect_made_once(mesh, channels, run, amount_sat)


async def test_run_cancelled_between_commit_and_broadcast_succeeds(
    mesh: ScenarioMesh,
) -> None:
    amount_sat = next(AMOUNTS)

    async with connect(mesh.home) as channels:
        run = await _cancelled_at("payment.after_commit", mesh, channels, amount_sat)

        await expect_made_once(mesh, channels, run, amount_sat)


async def test_run_cancelled_right_before_the_commit_has_one_outcome(
    mesh: ScenarioMesh,
) -> None:
    amount_sat = next(AMOUNTS)

    async with connect(mesh.home) as channels:
        run = await _cancelled_at("payment.before_commit", mesh, channels, amount_sat)

        if run.status == pb.RUN_STATUS_SUCCEEDED:
            await expect_made_once(mesh, channels, run, amount_sat)
        else:
            shown = await retry_until_answered(lambda: payment_client.get(channels, run.run_id))
            assert state_word(shown.state) == "CANCELLED"
            assert await mesh.received(channels, amount_sat) == []


def test_logs_and_spans_of_killed_services_have_no_payment_data(mesh: ScenarioMesh) -> None:
    payer = mesh.funded_mesh.payers[0]
    secrets = [payer.did, *payer.addresses, mesh.shop, *payer.credentials]
    files = [*mesh.home.path.glob("*/service.log"), *mesh.home.path.glob("traces.db*")]
    written = b"".join(path.read_bytes() for path in files)

    leaked = [secret for secret in secrets if secret.encode() in written]

    assert leaked == []
    kept = (SEND, "execute_payment", "services.bitcoin.recovery")  # two spans and a log
    assert [name for name in kept if name.encode() not in written] == []


async def _cancelled_at(
    point: str, mesh: ScenarioMesh, channels: Channels, amount_sat: int
) -> pb.Run:
    """Returns the end of a run that was cancelled while bitcoin was stopped at this failpoint."""
    await arm_failpoints(mesh.home, {"bitcoin": f"{point}=stop"})
    pid = await mesh.pid("bitcoin")
    proposal = await retry_until_answered(lambda: mesh.propose(channels, amount_sat))
    payment_id = proposal.intent.payment_id
    await retry_until_answered(lambda: payment_client.send(channels, proposal))
    try:
        await until_stopped(pid)
        await runs.cancel(channels, payment_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    return await runs.finish(channels, payment_id)


async def _until_uncertain(channels: Channels, payment_id: str) -> pb.Run:
    async for update in runs.watch(channels, payment_id):
        if any(step.status == pb.STEP_STATUS_UNCERTAIN for step in update.run.steps):
            return update.run
    raise AssertionError(runs.lines(update.run))


def _step(run: pb.Run) -> pb.Step:
    """Returns the step that pays."""
    return next(step for step in run.steps if step.path == "execute_payment")
