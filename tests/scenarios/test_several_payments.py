"""Several payments in one run of a whole mesh: each needs its own proof."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import wallet_pb2
from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from cli import payment_client, runs
from cli.connection import connect
from tests.faults.payment_clients import retry_until_answered
from tests.orchestrator.multi_payment import BATCH, PAIR, batch_of, pair_of
from tests.scenarios.kill_points import ScenarioMesh, mine, scenario_mesh
from tests.scenarios.meshes import anya

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.connection import Channels
    from cli.payment_client import Proposal

AMOUNTS = itertools.count(300_000)
TOO_MUCH_SAT = 20_000_000_000  # more than the payer has


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenarioMesh]:
    with scenario_mesh(tmp_path_factory.mktemp("several") / "home") as mesh:
        yield mesh


async def propose(mesh: ScenarioMesh, channels: Channels, *amounts: int) -> list[Proposal]:
    return [
        await retry_until_answered(partial(mesh.propose, channels, amount)) for amount in amounts
    ]


async def show(channels: Channels, proposal: Proposal) -> payment_pb2.Payment:
    return await retry_until_answered(
        lambda: payment_client.get(channels, proposal.intent.payment_id)
    )


async def run_pair(channels: Channels, first: Proposal, second: Proposal) -> pb.Run:
    """Runs both payments in one run to its end."""
    await retry_until_answered(lambda: runs.register(channels, PAIR))
    given = pair_of(first.intent, second.intent)
    run_id = str(uuid.uuid4())
    await retry_until_answered(lambda: _start(channels, "pair", given, run_id, first, second))
    return await runs.finish(channels, run_id)


async def _start(
    channels: Channels, workflow_id: str, given: dict[str, object], run_id: str, *made: Proposal
) -> None:
    proven = [pb.ProvenPayment(intent=one.intent, presentation=one.presentation) for one in made]
    await runs.start(channels, workflow_id, given, run_id=run_id, payments=proven)


async def test_two_payments_are_made_and_recorded_in_one_run(mesh: ScenarioMesh) -> None:
    async with connect(mesh.home) as channels:
        amounts = [next(AMOUNTS), next(AMOUNTS)]
        made = await propose(mesh, channels, *amounts)

        run = await run_pair(channels, *made)
        await mine(channels)
        shown = [await show(channels, one) for one in made]

        assert runs.status_word(run.status) == "SUCCEEDED", runs.lines(run)
        for payment, amount_sat in zip(shown, amounts, strict=True):
            assert payment.run_id == run.run_id
            assert payment.intent.amount_sat == amount_sat
            assert await mesh.received(channels, amount_sat) == [payment.txid[::-1].hex()]
            assert payment.confirmations == 1
            tenant = payment.record_tenant
            assert await mesh.records(channels, tenant, payment.payment_id) == 1
        assert shown[0].txid != shown[1].txid


async def test_first_payment_stays_made_if_the_second_one_is_refused(
    mesh: ScenarioMesh,
) -> None:
    async with connect(mesh.home) as channels:
        amount_sat = next(AMOUNTS)
        first, second = await propose(mesh, channels, amount_sat, TOO_MUCH_SAT)

        run = await run_pair(channels, first, second)
        made, refused = await show(channels, first), await show(channels, second)

        assert runs.status_word(run.status) == "NEEDS_ATTENTION", runs.lines(run)
        assert run.reason.startswith("pay1 was done, but not ")
        assert "pay2" in run.reason
        assert await mesh.received(channels, amount_sat) == [made.txid[::-1].hex()]
        assert made.record_id
        assert refused.bitcoin_answer == payment_pb2.BITCOIN_ANSWER_NOT_FOUND
        assert not refused.HasField("txid")
        assert await mesh.received(channels, TOO_MUCH_SAT) == []


async def test_proof_of_one_payment_is_refused_for_another(mesh: ScenarioMesh) -> None:
    async with connect(mesh.home) as channels:
        amounts = [next(AMOUNTS), next(AMOUNTS)]
        first, second = await propose(mesh, channels, *amounts)
        lent = replace(first, presentation=second.presentation)
        borrowed = replace(second, presentation=first.presentation)

        run = await run_pair(channels, lent, borrowed)

        assert runs.status_word(run.status) == "REFUSED", runs.lines(run)
        for amount_sat in amounts:
            assert await mesh.received(channels, amount_sat) == []


async def test_list_of_payments_is_paid_up_to_a_cancelled_one(
    mesh: ScenarioMesh,
) -> None:
    async with connect(mesh.home) as channels:
        await retry_until_answered(lambda: runs.register(channels, BATCH))
        amounts = [next(AMOUNTS) for _ in range(3)]
        made = await propose(mesh, channels, *amounts)
        last = made[-1].intent.payment_id
        await retry_until_answered(lambda: payment_client.cancel(channels, last))
        run_id = str(uuid.uuid4())
        given = batch_of(*(one.intent for one in made))

        await retry_until_answered(lambda: _start(channels, "batch", given, run_id, *made))
        run = await runs.finish(channels, run_id)
        shown = await show(channels, made[-1])

        assert runs.status_word(run.status) == "NEEDS_ATTENTION", runs.lines(run)
        assert run.public_reason == "each[2]/pay: PAYMENT_CANCELLED"
        assert shown.state == wallet_pb2.PAYMENT_STATE_CANCELLED
        counts = [len(await mesh.received(channels, amount)) for amount in amounts]
        assert counts == [1, 1, 0]


async def test_list_of_payments_is_proved_and_started_from_a_shell(mesh: ScenarioMesh) -> None:
    amounts = [next(AMOUNTS), next(AMOUNTS)]
    listed = [{"recipient_address": mesh.shop, "amount": amount} for amount in amounts]
    async with connect(mesh.home) as channels:
        await retry_until_answered(lambda: runs.register(channels, BATCH))

        done = await asyncio.to_thread(
            anya,
            *("run", "start", "batch", "--input", json.dumps({"payments": listed})),
            *("--pay-as", mesh.funded_mesh.payers[0].name, "--wait", "--json"),
            home=mesh.home.path,
        )

        assert done.code == 0, done.err
        first = done.document["input"]["payments"][0]["payment_id"]
        shown = await asyncio.to_thread(anya, "payment", "show", first, home=mesh.home.path)
        assert f"  with others in {done.document['run_id']}" in shown.out.splitlines()
        assert [len(await mesh.received(channels, amount)) for amount in amounts] == [1, 1]


async def test_input_without_payments_is_a_usage_error(mesh: ScenarioMesh) -> None:
    done = await asyncio.to_thread(
        anya,
        *(
            "run",
            "start",
            "batch",
            "--input",
            "{}",
            "--pay-as",
            mesh.funded_mesh.payers[0].name,
            "--json",
        ),
        home=mesh.home.path,
    )

    assert done.code == 2
    assert "the input names no payment" in done.error["message"]
