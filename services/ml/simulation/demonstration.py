"""The two recipients of the demonstration, found in the ground truth of its world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ml.simulation.index import AddressIndex
from services.ml.simulation.truth import ActorKind

if TYPE_CHECKING:
    from services.ml.simulation.truth import World


def licit_recipient(world: World) -> int:
    """Returns the merchant's slot with the most distinct funders at the tip."""
    index = at_tip(world)

    def funders(slot: int) -> int:
        receipts = index.history(slot).receipts
        return len({script for receipt in receipts for script in receipt.funders})

    return max(_slots(world, ActorKind.MERCHANT), key=funders)


def illicit_recipient(world: World) -> int:
    """Returns the scam's slot with the most receipts at the tip."""
    index = at_tip(world)
    return max(_slots(world, ActorKind.SCAM), key=lambda slot: len(index.history(slot).receipts))


def at_tip(world: World) -> AddressIndex:
    """Returns the address index after the last block."""
    index = AddressIndex(world.plan)
    for block in world.plan.blocks:
        index.connect(block)
    return index


def _slots(world: World, kind: ActorKind) -> list[int]:
    return [slot for slot, owner in enumerate(world.truth.owners) if owner is kind]
