"""A verified payment as its payer makes it: proved for this one payment, started, followed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.web5.v1 import identity_pb2, record_pb2
from anya.web5.v1.identity_pb2_grpc import IdentityServiceStub
from anya.web5.v1.record_pb2_grpc import RecordServiceStub
from cli import runs
from cli.errors import FAILED, INTERRUPTED, CommandError, from_rpc
from formats import uuid7
from mesh.security.attestation import payment_digest
from services.orchestrator.definition.values import from_struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anya.orchestrator.v1 import workflow_pb2
    from cli.connection import Channels
    from cli.identities import Identity

WORKFLOW = "verified_payment"
OK = 200  # of a DWN reply
UNCLEAR = (  # whoever gets one of these does not know whether the call had its effect
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
POLL = 0.1  # seconds between two looks at a transaction


@dataclass(frozen=True, slots=True)
class Proposal:
    """One payment, and the payer's proof of it. Starting it twice pays once."""

    intent: PaymentIntent
    presentation: str  # VP-JWT


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a payment, as its run tells it. Empty where it did not get so far."""

    run_id: str
    status: str  # "SUCCEEDED"
    reason: str
    trace_id: str
    txid: str  # display order
    record_tenant: str  # DID of the node that keeps the record
    record_id: str
    risk_score: float | None
    risk_factors: list[dict[str, Any]]


async def propose(
    channels: Channels,
    payer: Identity,
    recipient: str,
    amount_sat: int,
    *,
    payment_id: str = "",
    on: str = "",
) -> Proposal:
    """Choose the payment's id, take a nonce for exactly this payment, and sign over it.

    ``on``: the mesh's network, for who knows it already.
    """
    if not payer.addresses:
        raise CommandError(
            f"no address is linked to {payer.did}",
            reason="NO_LINKED_ADDRESS",
            remedy="link one: anya demo does it for its payer",
        )
    intent = PaymentIntent(
        network=on or await network(channels),
        payment_id=payment_id or new_id(),
        sender_did=payer.did,
        sender_address=payer.addresses[0],
        recipient_address=recipient,
        amount_sat=amount_sat,
    )
    return Proposal(intent, await prove(channels, payer, intent))


async def prove(channels: Channels, payer: Identity, intent: PaymentIntent) -> str:
    """A fresh presentation by ``payer`` for the payment of ``intent``."""
    digest = payment_digest(intent)  # ours: what is signed is what was meant
    request = identity_pb2.BeginVerificationRequest(request_id=str(uuid.uuid4()), intent=intent)
    challenge = await IdentityServiceStub(channels["web5"]).BeginVerification(request)
    return payer.holder.present(
        payer.credentials, nonce=challenge.nonce, audience=challenge.audience, digest=digest
    )


async def start(
    channels: Channels, proposal: Proposal, *, workflow_id: str = WORKFLOW
) -> workflow_pb2.StartRunResponse:
    intent = proposal.intent
    return await runs.start(
        channels,
        workflow_id,
        values_of(intent),
        run_id=intent.payment_id,
        intent=intent,
        presentation=proposal.presentation,
    )


def values_of(intent: PaymentIntent) -> dict[str, Any]:
    """The input of a payment's run."""
    return {
        "sender_did": intent.sender_did,
        "sender_address": intent.sender_address,
        "recipient_address": intent.recipient_address,
        "amount": intent.amount_sat,
    }


@contextmanager
def naming_it(proposal: Proposal) -> Iterator[None]:
    """In the block the payment may be made already: what ends it without telling names it.

    CommandError (OUTCOME_UNKNOWN): to pay again would then be the wrong remedy.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() not in UNCLEAR:
            raise
        raise _unknown(proposal, from_rpc(error).message, code=error.code().name) from None
    except asyncio.CancelledError:  # by Ctrl-C
        raise _unknown(proposal, "interrupted", code="CANCELLED", exit_code=INTERRUPTED) from None


def _unknown(proposal: Proposal, why: str, *, code: str, exit_code: int = FAILED) -> CommandError:
    payment_id = proposal.intent.payment_id
    return CommandError(
        f"payment {payment_id} may have been made: {why}",
        code=code,
        reason="OUTCOME_UNKNOWN",
        remedy=f"do not pay again before you know: anya payment watch {payment_id}",
        exit_code=exit_code,
    )


def outcome(run: workflow_pb2.Run) -> Outcome:
    """Read what the steps of a payment's run gave."""
    outputs = {step.path: from_struct(step.output) for step in run.steps}
    risk = outputs.get("fraud_assessment", {})
    record = _reply(outputs.get("record_transaction", {}))
    return Outcome(
        run_id=run.run_id,
        status=runs.status_word(run.status),
        reason=run.reason,
        trace_id=run.trace_id,
        txid=outputs.get("execute_payment", {}).get("transaction_id") or "",
        record_tenant=record.get("tenant") or "",
        record_id=record.get("record_id") or "",
        risk_score=risk.get("risk_score"),
        risk_factors=risk.get("risk_factors") or [],
    )


async def confirmations(channels: Channels, txid: str, *, within: float = 0.0) -> int:
    """Of a transaction; waits until it has one, or for ``within`` seconds.

    0 also while nobody answers: what was paid stays paid, whoever is being started again.
    """
    request = chain_pb2.GetTransactionRequest(txid=bytes.fromhex(txid)[::-1])
    deadline = time.monotonic() + within
    while True:
        try:
            reply = await ChainServiceStub(channels["bitcoin"]).GetTransaction(request)
            depth = reply.confirmations
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.NOT_FOUND, *UNCLEAR):
                raise
            depth = 0
        if depth or time.monotonic() >= deadline:
            return depth
        await asyncio.sleep(POLL)


async def read_record(channels: Channels, reader: Identity, outcome: Outcome) -> Any:
    """The data of the payment's record, as the node gives it to ``reader``; None if it does not."""
    request = record_pb2.ProcessMessageRequest(
        target=outcome.record_tenant, message=reader.holder.read_record(outcome.record_id)
    )
    reply = await RecordServiceStub(channels["web5"]).ProcessMessage(request)
    allowed = json.loads(reply.reply)["status"]["code"] == OK
    return json.loads(reply.data) if allowed else None


async def network(channels: Channels) -> str:
    stub = ChainServiceStub(channels["bitcoin"])
    return (await stub.GetChainInfo(chain_pb2.GetChainInfoRequest())).network


def new_id() -> str:
    """Returns a new UUIDv7: a request id, or a payment id."""
    return uuid7.from_parts(time.time_ns() // 1_000_000, secrets.token_bytes(uuid7.RANDOM_BYTES))


def _reply(output: dict[str, Any]) -> dict[str, Any]:
    """Everything that the step's reply held, also what its output_mapping did not take."""
    whole = output.get("_output")
    return whole if isinstance(whole, dict) else output
