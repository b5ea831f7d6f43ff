"""A payment whose answer is lost: the error names the payment, so that it is not paid again."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import grpc
import pytest

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from cli import payment_client
from cli.errors import CommandError
from cli.identities import Identity
from cli.wallet_holder import Holder
from mesh.errors import InvalidArgument

RECIPIENT = "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk"
PROPOSAL = payment_client.Proposal(
    PaymentIntent(payment_id="0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f"), ""
)


@pytest.fixture
def nowhere() -> str:
    """An address at which no process listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


async def test_lost_answer_names_the_payment(nowhere: str) -> None:
    async with grpc.aio.insecure_channel(nowhere) as channel:
        with pytest.raises(CommandError) as lost, payment_client.naming_it(PROPOSAL):
            await payment_client.send({"orchestrator": channel}, PROPOSAL)

    assert lost.value.reason == "OUTCOME_UNKNOWN"
    assert f"anya payment watch {PROPOSAL.intent.payment_id}" in lost.value.remedy


async def test_interrupt_names_the_payment_that_continues() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with grpc.aio.insecure_channel(address) as channel:

            async def pay() -> None:
                with payment_client.naming_it(PROPOSAL):
                    await payment_client.send({"orchestrator": channel}, PROPOSAL)

            paying = asyncio.create_task(pay())
            await asyncio.sleep(0)
            paying.cancel()  # as Ctrl-C does
            with pytest.raises(CommandError) as stopped:
                await paying

    assert stopped.value.exit_code == 130
    assert f"anya payment watch {PROPOSAL.intent.payment_id}" in stopped.value.remedy


@pytest.mark.parametrize(
    ("recipient", "amount_sat", "field"),
    [
        ("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", 1_000, "intent.recipient_address"),
        (RECIPIENT[:-1] + "q", 1_000, "intent.recipient_address"),
        (RECIPIENT, 293, "intent.amount_sat"),
    ],
    ids=["another network", "mistyped", "dust"],
)
async def test_payment_that_cannot_be_made_is_refused_before_any_call(
    recipient: str, amount_sat: int, field: str
) -> None:
    payer = Identity("payer", Holder.generate(), addresses=(RECIPIENT,))

    with pytest.raises(InvalidArgument) as refusal:
        await payment_client.propose({}, payer, recipient, amount_sat, on="regtest")

    assert refusal.value.field == field


async def test_confirmations_are_0_if_bitcoin_does_not_answer(nowhere: str) -> None:
    async with grpc.aio.insecure_channel(nowhere) as channel:
        assert await payment_client.confirmations({"bitcoin": channel}, "ab" * 32) == 0
