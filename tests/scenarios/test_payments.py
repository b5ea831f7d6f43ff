"""Payments of a whole mesh: the example of the page, cancellations, and crashes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from anya.bitcoin.v1 import regtest_pb2, wallet_pb2
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from anya.ml.v1 import risk_pb2
from anya.orchestrator.v1 import payment_pb2, workflow_pb2
from cli import payment_client, runs
from cli.connection import connect
from cli.home import Home
from cli.identities import Identities
from mesh.errors import Reason
from mesh.testing import reason
from services.web5.proof import VerificationFailure
from tests.scenarios.meshes import Mesh, environment, up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.connection import Channels
    from cli.payment_client import Proposal
    from tests.scenarios.meshes import Result

PAGE = Path(__file__).parents[2] / "docs" / "payments.md"
COINS = 30  # each payment spends one
MATURITY_BLOCKS = 100  # on top of a coinbase
CANCELLED = wallet_pb2.PAYMENT_STATE_CANCELLED
EVENTS = 14  # of a run until its payment is made


@pytest.fixture(scope="module")
def mesh(demo: Result, home: Path) -> Iterator[Mesh]:
    """The mesh of the demo, whose payer has coins and which mines by itself."""
    assert demo.code == 0, demo.err
    with up(home, "--mine", "auto") as mesh:
        asyncio.run(fund(Home(home)))
        yield mesh


async def fund(home: Home) -> None:
    address = Identities(home).load("payer").addresses[0]
    async with connect(home) as channels:
        mine = RegtestServiceStub(channels["bitcoin"]).MineBlocks
        await mine(
            regtest_pb2.MineBlocksRequest(
                request_id=str(uuid.uuid4()), count=COINS, address=address
            ),
            timeout=60,
        )
        await mine(
            regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=MATURITY_BLOCKS),
            timeout=60,
        )


def merchant(mesh: Mesh) -> str:
    return str(json.loads((mesh.home / "client" / "economy.json").read_text())["licit"])


async def propose(mesh: Mesh, channels: Channels) -> Proposal:
    payer = Identities(Home(mesh.home)).load("payer")
    return await payment_client.propose(channels, payer, merchant(mesh), 250_000)


async def pay(mesh: Mesh) -> str:
    """Makes a payment and returns its id."""
    async with connect(Home(mesh.home)) as channels:
        proposal = await propose(mesh, channels)
        made = await payment_client.pay(channels, proposal)
    assert made.run_status == workflow_pb2.RUN_STATUS_SUCCEEDED
    return proposal.intent.payment_id


def test_example_of_the_page_makes_a_payment(mesh: Mesh, tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "pay.py").write_text(example)
    (tmp_path / ".anya").symlink_to(mesh.home)

    done = subprocess.run(
        [sys.executable, "-W", "error", "pay.py", merchant(mesh), "250000"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"txid [0-9a-f]{64} confirmations 1$", done.stdout.strip())


ENUMS = [
    workflow_pb2.RunStatus,
    wallet_pb2.PaymentState,
    payment_pb2.BitcoinAnswer,
    risk_pb2.RiskReasonCode,
]


def words(enum: Any) -> set[str]:
    """ "SUCCEEDED", "REFUSED" and so on."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    return {value.name.removeprefix(prefix) for value in enum.DESCRIPTOR.values} - {"UNSPECIFIED"}


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.DESCRIPTOR.name)
def test_page_explains_every_word_of_the_enum(enum: Any) -> None:
    text = PAGE.read_text()

    assert not {word for word in words(enum) if f"| `{word}` |" not in text}


def test_page_lists_exactly_the_reasons_of_web5() -> None:
    named = set(re.findall(r"`([A-Z_]{2,})`", PAGE.read_text()))
    known = {*Reason, *VerificationFailure}.union(*map(words, ENUMS))

    assert named >= set(VerificationFailure)
    assert {name for name in named if not name.startswith("ANYA_")} <= known


async def test_payment_is_shown_and_watched_by_its_id(mesh: Mesh) -> None:
    payment_id = await pay(mesh)

    watched = await asyncio.to_thread(
        mesh.anya, "payment", "watch", payment_id, "--confirmations", "1", "--json"
    )
    shown = await asyncio.to_thread(mesh.anya, "payment", "show", payment_id, "--json")

    last = json.loads(watched.out.splitlines()[-1])
    assert (watched.code, shown.code) == (0, 0)
    assert last["confirmations"] == 1
    assert shown.document["run_status"] == "succeeded"
    assert shown.document["bitcoin_answer"] == "found"
    assert re.fullmatch("[0-9a-f]{64}", shown.document["txid"])
    assert shown.document["record_id"].startswith("bafy")


async def test_signed_payment_cannot_be_cancelled(mesh: Mesh) -> None:
    payment_id = await pay(mesh)

    cancelled = await asyncio.to_thread(mesh.anya, "payment", "cancel", payment_id)

    assert cancelled.code == 3
    assert cancelled.out.startswith("not cancelled: it is signed")


async def test_payment_that_is_not_sent_yet_can_be_cancelled(mesh: Mesh) -> None:
    payment_id = payment_client.new_id()

    cancelled = await asyncio.to_thread(mesh.anya, "payment", "cancel", payment_id, "--json")
    shown = await asyncio.to_thread(mesh.anya, "payment", "show", payment_id, "--json")

    assert cancelled.code == 0
    assert (shown.document["state"], shown.document["run_status"]) == ("cancelled", None)


@pytest.mark.parametrize("event", range(0, EVENTS + 3, 2))
async def test_cancellation_at_any_time_has_one_outcome(mesh: Mesh, event: int) -> None:
    """Either the payment or its cancellation takes effect, and all replies agree."""
    async with connect(Home(mesh.home)) as channels:
        proposal = await propose(mesh, channels)
        payment_id = proposal.intent.payment_id
        sending = asyncio.create_task(payment_client.send(channels, proposal))

        cancelled = await cancel_at(channels, payment_id, event, sending)
        run = await runs.finish(channels, payment_id)
        shown = await payment_client.get(channels, payment_id)

    if cancelled.state == CANCELLED:
        assert runs.status_word(run.status) == "CANCELLED"
        assert shown.state == CANCELLED
        assert not shown.HasField("txid")
    else:
        assert runs.status_word(run.status) == "SUCCEEDED"
        assert shown.txid == cancelled.txid
        assert shown.record_id


async def cancel_at(
    channels: Channels, payment_id: str, event: int, sending: asyncio.Task[None]
) -> payment_pb2.Payment:
    """Cancels the payment after its run has journalled this many events."""
    if event:
        await sending
        async for seen in runs.watch(channels, payment_id):
            event -= 1
            if not event or seen.run.status in runs.ENDED:
                break
    cancelled = await payment_client.cancel(channels, payment_id)
    await sending
    return cancelled


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Suspends a process for the block, so that it exists but does not answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pid_of(mesh: Mesh, service: str) -> int:
    return int(mesh.anya("status", "--json").document["services"][service]["pid"])


async def test_payment_is_shown_while_bitcoin_is_unavailable(mesh: Mesh) -> None:
    payment_id = await pay(mesh)
    pid = await asyncio.to_thread(pid_of, mesh, "bitcoin")

    with frozen(pid):
        async with connect(Home(mesh.home)) as channels:
            shown = await payment_client.get(channels, payment_id)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await payment_client.cancel(channels, payment_id)

    assert reason(caught.value) == "PEER_UNAVAILABLE"
    assert shown.bitcoin_answer == payment_pb2.BITCOIN_ANSWER_UNAVAILABLE
    assert len(shown.txid) == 32
    assert not shown.HasField("confirmations")


async def test_watch_continues_after_a_crash_of_the_orchestrator(mesh: Mesh) -> None:
    pids = {name: await asyncio.to_thread(pid_of, mesh, name) for name in ("orchestrator", "ml")}
    async with connect(Home(mesh.home)) as channels:
        proposal = await propose(mesh, channels)
        payment_id = proposal.intent.payment_id
        with frozen(pids["ml"]):  # keeps the payment in progress for the crash
            await payment_client.send(channels, proposal)
            killed = False
            async for shown in payment_client.watch(channels, payment_id, confirmations=1):
                if shown.recoveries:
                    break
                if not killed:
                    os.kill(pids["orchestrator"], signal.SIGKILL)
                killed = True
        ended = [
            shown async for shown in payment_client.watch(channels, payment_id, confirmations=1)
        ]

    assert runs.status_word(ended[-1].run_status) == "SUCCEEDED"
    assert (ended[-1].recoveries, ended[-1].confirmations) == (1, 1)
