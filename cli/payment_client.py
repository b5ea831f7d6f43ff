"""Verified payments as their payer makes them: proved, sent, followed, cancelled."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.orchestrator.v1 import payment_pb2 as pb
from anya.orchestrator.v1 import workflow_pb2
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.web5.v1 import identity_pb2, record_pb2
from anya.web5.v1.identity_pb2_grpc import IdentityServiceStub
from anya.web5.v1.record_pb2_grpc import RecordServiceStub
from cli import payment_view, resumption, runs
from cli.errors import FAILED, INTERRUPTED, CommandError, from_rpc, usage
from formats import uuid7
from formats.money import MAX_SAT
from mesh.security.attestation import payment_digest
from mesh.security.payment_intent import parse_intent
from services.orchestrator.definition.values import from_struct

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from cli.connection import Channels
    from cli.identities import Identity

WORKFLOW = "verified_payment"
OK = 200  # of a DWN reply
UNCLEAR = (  # codes after which the call may or may not have had its effect
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
POLL_INTERVAL_S = 0.1
WAIT_S = 60  # unless the call's own deadline comes first


@dataclass(frozen=True, slots=True)
class Proposal:
    """One payment, and the payer's proof of it. Starting it twice pays once."""

    intent: PaymentIntent
    presentation: str  # VP-JWT


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a payment by its run. A field is empty if the run did not get that far."""

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
    """Chooses the payment's id, gets a nonce for exactly this payment, and signs over it.

    ``on`` is the mesh's network; "" asks the bitcoin service. Raises CommandError if the payer
    has no linked address, and InvalidArgument if a value of the payment cannot be paid.
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
    parse_intent(intent, intent.network)  # before a challenge is asked for
    return Proposal(intent, await prove(channels, payer, intent))


async def prove(channels: Channels, payer: Identity, intent: PaymentIntent) -> str:
    """Returns a new presentation (VP-JWT) by ``payer`` for the payment of ``intent``."""
    digest = payment_digest(intent)  # computed here: the payer signs what it meant
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
    """Returns the input of the payment's run."""
    return {
        "sender_did": intent.sender_did,
        "sender_address": intent.sender_address,
        "recipient_address": intent.recipient_address,
        "amount": intent.amount_sat,
    }


@contextmanager
def naming_it(proposal: Proposal) -> Iterator[None]:
    """Names the payment in the error if the block ends without a known outcome.

    Raises CommandError (OUTCOME_UNKNOWN): the payment may be made already, and paying again would
    be the wrong remedy.
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
    """Returns the outcome that the steps of a payment's run recorded."""
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
    """Returns a transaction's confirmations; waits up to ``within`` seconds for the first.

    Returns 0 also while the bitcoin service does not answer.
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
        await asyncio.sleep(POLL_INTERVAL_S)


async def read_record(channels: Channels, reader: Identity, outcome: Outcome) -> Any:
    """Returns the data of the payment's record, or None if the node refuses it to ``reader``."""
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


async def send(channels: Channels, proposal: Proposal) -> None:
    """Sends the payment and returns at once; the same proposal again is the same payment."""
    await _stub(channels).SendVerifiedPayment(_request(proposal))


async def pay(channels: Channels, proposal: Proposal) -> pb.Payment:
    """Sends the payment and returns it once its run has ended."""
    request = _request(proposal)
    request.wait.FromSeconds(WAIT_S)
    sent = await _stub(channels).SendVerifiedPayment(request)
    if sent.run_status in runs.ENDED:
        return sent.payment
    return await end(channels, proposal.intent.payment_id)


async def get(channels: Channels, payment_id: str) -> pb.Payment:
    return (await _stub(channels).GetPayment(pb.GetPaymentRequest(payment_id=payment_id))).payment


async def cancel(channels: Channels, payment_id: str) -> pb.Payment:
    request = pb.CancelPaymentRequest(payment_id=payment_id)
    return (await _stub(channels).CancelPayment(request)).payment


async def watch(
    channels: Channels, payment_id: str, *, confirmations: int = 0, end_only: bool = False
) -> AsyncGenerator[pb.Payment, None]:
    """Yields the payment after each change, also across a crash of the orchestrator.

    Ends with its run and, if the payment is made, with this many ``confirmations``. With
    ``end_only`` it yields the last state alone.
    """
    stub = _stub(channels)

    def open_after(sequence: int) -> Any:
        request = pb.WatchPaymentRequest(
            payment_id=payment_id,
            after_sequence=sequence,
            confirmations=confirmations,
            end_only=end_only,
        )
        return stub.WatchPayment(request, timeout=resumption.STREAM_TIMEOUT_S)

    async for reply in resumption.resumed(open_after):
        yield reply.payment


async def end(channels: Channels, payment_id: str) -> pb.Payment:
    """Returns the payment once its run has ended, with its state at the bitcoin service then."""
    *_, ended = [payment async for payment in watch(channels, payment_id, end_only=True)]
    return ended


async def finish(
    channels: Channels, payment_id: str, *, confirm_within: float, say: Callable[[str], None]
) -> pb.Payment:
    """Returns the payment once its run has ended, with its first confirmation if in time."""
    payment = pb.Payment()
    try:
        async with (
            asyncio.timeout(None) as limit,
            aclosing(watch(channels, payment_id, confirmations=1)) as changes,
        ):
            async for payment in changes:
                say(payment_view.progress(payment))
                if payment.run_status in runs.ENDED and limit.when() is None:
                    limit.reschedule(asyncio.get_running_loop().time() + confirm_within)
    except TimeoutError:
        pass  # it confirms later
    return payment


async def prove_input(
    channels: Channels, payer: Identity, given: dict[str, Any]
) -> list[workflow_pb2.ProvenPayment]:
    """Proves every payment that the input names, and adds its id and sender to the input.

    Raises CommandError if the input names no payment.
    """
    found = list(_payments(given))
    if not found:
        raise usage("the input names no payment: an object with recipient_address and amount")
    for one in found:
        if not 1 <= one["amount"] <= MAX_SAT or not isinstance(one.get("payment_id", ""), str):
            raise usage(f"a payment has 1 to {MAX_SAT} satoshi, and a payment_id that is a text")
    on = await network(channels)
    proven = []
    for one in found:
        to, amount_sat, id = one["recipient_address"], one["amount"], one.get("payment_id", "")
        proposal = await propose(channels, payer, to, amount_sat, payment_id=id, on=on)
        one |= {
            "payment_id": proposal.intent.payment_id,
            **values_of(proposal.intent),
            **one,
        }
        proven.append(
            workflow_pb2.ProvenPayment(intent=proposal.intent, presentation=proposal.presentation)
        )
    return proven


def _payments(value: Any) -> Iterator[dict[str, Any]]:
    match value:
        case {"recipient_address": str(), "amount": int() as amount} if amount is not True:
            yield value
        case dict():
            for item in value.values():
                yield from _payments(item)
        case list():
            for item in value:
                yield from _payments(item)
        case _:
            pass


def _reply(output: dict[str, Any]) -> dict[str, Any]:
    """Returns the step's whole reply, beyond what its output_mapping took."""
    whole = output.get("_output")
    return whole if isinstance(whole, dict) else output


def _request(proposal: Proposal) -> pb.SendVerifiedPaymentRequest:
    return pb.SendVerifiedPaymentRequest(
        request_id=proposal.intent.payment_id,
        intent=proposal.intent,
        presentation=proposal.presentation,
    )


def _stub(channels: Channels) -> PaymentServiceAsyncStub:
    return PaymentServiceStub(channels["orchestrator"])
