"""The payments that a run's input names, each proved by one payer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli import payment
from cli.errors import usage
from formats.money import MAX_SAT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.connection import Channels
    from cli.identities import Identity


async def prove(
    channels: Channels, payer: Identity, given: dict[str, Any]
) -> list[pb.ProvenPayment]:
    """Prove every payment of the input, and complete what it says of each: its id and its sender.

    CommandError for an input that names none.
    """
    found = list(_payments(given))
    if not found:
        raise usage("the input names no payment: an object with recipient_address and amount")
    for one in found:
        if not 1 <= one["amount"] <= MAX_SAT or not isinstance(one.get("payment_id", ""), str):
            raise usage(f"a payment has 1 to {MAX_SAT} satoshi, and a payment_id that is a text")
    on = await payment.network(channels)
    proven = []
    for one in found:
        to, amount_sat, id = one["recipient_address"], one["amount"], one.get("payment_id", "")
        proposal = await payment.propose(channels, payer, to, amount_sat, payment_id=id, on=on)
        one |= {
            "payment_id": proposal.intent.payment_id,
            **payment.values_of(proposal.intent),
            **one,
        }
        proven.append(pb.ProvenPayment(intent=proposal.intent, presentation=proposal.presentation))
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
