"""The two recipients that the demonstration pays, found in the truth of its world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.ml.simulation.index import Index
from services.ml.simulation.truth import Kind

if TYPE_CHECKING:
    from services.ml.simulation.truth import World


def licit_recipient(world: World) -> int:
    """The merchant's slot with the most distinct funders at the tip."""
    index = at_tip(world)

    def funders(slot: int) -> int:
        receipts = index.history(slot).receipts
        return len({script for receipt in receipts for script in receipt.funders})

    return max(_slots(world, Kind.MERCHANT), key=funders)


def illicit_recipient(world: World) -> int:
    """The slot of a scam that collected the most receipts by the tip."""
    index = at_tip(world)
    return max(_slots(world, Kind.SCAM), key=lambda slot: len(index.history(slot).receipts))


def at_tip(world: World) -> Index:
    """The address index after the last block."""
    index = Index(world.plan)
    for block in world.plan.blocks:
        index.connect(block)
    return index


def _slots(world: World, kind: Kind) -> list[int]:
    return [slot for slot, owner in enumerate(world.truth.owners) if owner is kind]
