"""SIGKILL at every boundary of a payment: after a restart it is paid once or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from shutil import copyfile
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1 import wallet_pb2 as pb
from tests.bitcoin.funded_mesh import (
    RECIPIENT,
    FundedMesh,
    config,
    connect,
    open_funded_mesh,
    running,
)

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority


@asynccontextmanager
async def doomed(
    location: str, home: Path, authority: Authority, failpoint: str
) -> AsyncIterator[tuple[Process, FundedMesh]]:
    """Starts the service as a process that dies at the failpoint."""
    (home / "pki").mkdir()
    identity = authority.issue_service("bitcoin")
    copyfile(identity.ca, home / "pki" / "ca.pem")
    copyfile(identity.certificate, home / "pki" / "bitcoin.pem")
    copyfile(identity.key, home / "pki" / "bitcoin.key")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.bitcoin"),
        env={
            "PATH": os.environ["PATH"],
            "ANYA_HOME": str(home),
            "ANYA_DATABASE": location,
            "ANYA_FAILPOINTS": f"{failpoint}=kill",
        },
        stdout=PIPE,
    )
    try:
        assert process.stdout
        ready = json.loads(await process.stdout.readline())["ready"]
        async with connect(authority, ready["port"]) as people:
            yield process, people
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def received(people: FundedMesh) -> list[int]:
    """Returns the recipient's amounts in chain and mempool."""
    page = await people.chain.ListUtxos(chain_pb2.ListUtxosRequest(address=RECIPIENT))
    return [utxo.amount_sat for utxo in page.utxos]


async def kill_at(
    failpoint: str, location: str, home: Path, authority: Authority
) -> tuple[pb.SendPaymentRequest, str]:
    """Kills a service at the failpoint; returns the payment request and the wallet's id."""
    async with open_funded_mesh(config(authority, home, database=location), authority) as people:
        wallet_id, request = people.wallet_id, people.payment_request(amount_sat=1_000_000)
    async with doomed(location, home, authority, failpoint) as (process, people):
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await people.spender.SendPayment(request)
        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await process.wait() == -9
    return request, wallet_id


@pytest.mark.parametrize("failpoint", ["payment.after_commit", "payment.after_send"])
async def test_committed_payment_is_sent_after_a_restart_and_only_once(
    location: str, authority: Authority, tmp_path: Path, failpoint: str
) -> None:
    request, _ = await kill_at(failpoint, location, tmp_path, authority)

    async with running(config(authority, tmp_path, database=location), authority) as people:
        await people.reaches(request.request_id, "BROADCAST")
        retried = await people.spender.SendPayment(request)

        assert retried.status == pb.SEND_OUTCOME_SUCCESS
        assert await people.waiting() == [retried.txid]
        assert await received(people) == [1_000_000]
        assert await people.events("bitcoin.payment.") == ["prepared", "broadcast"]


async def test_uncommitted_payment_does_not_exist_after_a_kill(
    location: str, authority: Authority, tmp_path: Path
) -> None:
    request, wallet_id = await kill_at("payment.before_commit", location, tmp_path, authority)

    async with running(config(authority, tmp_path, database=location), authority) as people:
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await people.state(request.request_id)
        balance = await people.wallet.GetBalance(pb.GetBalanceRequest(wallet_id=wallet_id))
        retried = await people.spender.SendPayment(request)

        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert balance.reserved_sat == 0
        assert await people.waiting() == [retried.txid]


@pytest.mark.parametrize(
    ("failpoint", "state"),
    [("payment.before_commit", "CANCELLED"), ("payment.after_commit", "BROADCAST")],
)
async def test_cancel_between_signing_and_sending_has_one_winner(
    location: str, authority: Authority, tmp_path: Path, failpoint: str, state: str
) -> None:
    request, _ = await kill_at(failpoint, location, tmp_path, authority)
    exists = state == "BROADCAST"

    async with running(config(authority, tmp_path, database=location), authority) as people:
        cancel = pb.CancelPaymentRequest(payment_id=request.request_id)
        found = (await people.spender.CancelPayment(cancel)).payment
        await people.reaches(request.request_id, state)
        attempts = await asyncio.gather(people.spender.SendPayment(request), return_exceptions=True)

        assert (found.state == pb.PAYMENT_STATE_CANCELLED) is not exists
        assert isinstance(attempts[0], pb.SendPaymentResponse) is exists
        assert await received(people) == ([1_000_000] if exists else [])
