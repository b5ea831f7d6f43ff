"""Scene: four ways to pay without proof, none of which gets a signature."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from cli import payment_client
from cli.demo.scene import Scene
from cli.demo.stage import AMOUNT_SAT
from cli.payment_client import Proposal
from services.orchestrator.definition.values import from_struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anya.orchestrator.v1 import workflow_pb2
    from cli.demo.stage import Stage


async def play(stage: Stage) -> Scene:
    before = await stage.payments_to(stage.licit)
    cases, lines = [], []
    claims: dict[str, bool] = {}
    for name, propose in CASES.items():
        stage.say(f"  {name.replace('_', ' ')}")
        run = await stage.run(propose(stage))
        outcome = payment_client.outcome(run)
        reason = _reason(run)
        cases.append({"name": name, "reason": reason})
        lines.append(f"{name.replace('_', ' ')}: {reason}")
        claims[f"{name} is refused"] = outcome.status == "REFUSED"
        claims[f"{name} is not signed"] = not await stage.was_signed(run.run_id)
    broadcast = len(await stage.payments_to(stage.licit) - before)
    document = {
        "name": "unproven_sender",
        "status": "REFUSED" if all(claims.values()) else "FAILED",
        "reason": "no payment without proof of the sender and its address",
        "broadcast": broadcast,
        "cases": cases,
    }
    return Scene(document, lines, {**claims, "nothing is broadcast": not broadcast})


async def _replayed_presentation(stage: Stage) -> Proposal:
    """Replays the presentation of the previous payment for a new payment."""
    assert stage.last  # noqa: S101  (other scenes come first)
    intent = PaymentIntent()
    intent.CopyFrom(stage.last.intent)
    intent.payment_id = payment_client.new_id()
    intent.recipient_address = stage.licit
    return Proposal(intent, stage.last.presentation)


async def _another_did(stage: Stage) -> Proposal:
    """Signs the payer's presentation with the stranger's key."""
    proposal = await payment_client.propose(stage.channels, stage.payer, stage.licit, AMOUNT_SAT)
    presentation = await payment_client.prove(stage.channels, stage.stranger, proposal.intent)
    return replace(proposal, presentation=presentation)


async def _another_amount(stage: Stage) -> Proposal:
    """Proves a small payment, and starts a larger one with that proof."""
    proposal = await payment_client.propose(
        stage.channels, stage.payer, stage.licit, AMOUNT_SAT // 10
    )
    intent = PaymentIntent()
    intent.CopyFrom(proposal.intent)
    intent.amount_sat = AMOUNT_SAT
    return replace(proposal, intent=intent)


async def _another_address(stage: Stage) -> Proposal:
    """Proves the stranger's own identity, and names the payer's address as its own."""
    thief = replace(stage.stranger, addresses=stage.payer.addresses)
    return await payment_client.propose(stage.channels, thief, stage.licit, AMOUNT_SAT)


CASES: dict[str, Callable[[Stage], Awaitable[Proposal]]] = {
    "replayed_presentation": _replayed_presentation,
    "presentation_by_another_did": _another_did,
    "presentation_for_another_amount": _another_amount,
    "address_of_another_did": _another_address,
}


def _reason(run: workflow_pb2.Run) -> str:
    """Returns why the run was refused, with the identity check's failures if there are any."""
    identity = next((step for step in run.steps if step.path == "verify_sender"), None)
    reply = from_struct(identity.output).get("_output") if identity else None
    words = reply.get("failures") if isinstance(reply, dict) else None
    return f"{', '.join(words).upper()}: {run.reason}" if words else run.reason
