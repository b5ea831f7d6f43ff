"""The in-memory renderer: an address index that grows with the plan, block by block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from features.history import AddressHistory, Output, Receipt, Spend
from features.payment_risk import PaymentFacts, RecipientLink
from services.ml.simulation.plan import Coin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.ml.simulation.plan import Plan, PlannedBlock
    from services.ml.simulation.truth import Payment, World


def script(slot: int) -> bytes:
    return slot.to_bytes(4, "big")


def txid(transaction: int) -> bytes:
    return transaction.to_bytes(4, "big")


class AddressIndex:
    """The history of the plan's addresses up to the tip, as a real index has it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._receipts: list[list[Receipt]] = [[] for _ in range(plan.slots)]
        self._places: dict[Coin, tuple[int, int]] = {}  # coin -> slot, place in its receipts
        self.height = 0

    def connect(self, block: PlannedBlock) -> None:
        for number in block.transactions:
            self._add(number)
        self.height = block.height

    def history(self, slot: int) -> AddressHistory:
        return AddressHistory(script(slot), tuple(self._receipts[slot]))

    def facts(
        self, payment: Payment, *, recipient_slot: int | None = None, link: int | None = None
    ) -> PaymentFacts:
        """Returns the facts before the payment, optionally with another recipient.

        ``link`` is the height of the other recipient's public link.
        """
        swapped = recipient_slot is not None
        recipient = payment.recipient_slot if recipient_slot is None else recipient_slot
        return PaymentFacts(
            height=self.height,
            amount_sat=payment.amount_sat,
            recipient=self.history(recipient),
            sender=tuple(self.history(slot) for slot in payment.sender_slots),
            sender_link_heights=payment.sender_link_heights,
            recipient_link=RecipientLink(link if swapped else payment.recipient_link_height),
        )

    def _add(self, number: int) -> None:
        planned = self._plan.transactions[number]
        places = [self._places.pop(coin) for coin in planned.inputs]
        outputs = tuple(Output(script(out.slot), out.amount_sat) for out in planned.outputs)
        spend = Spend(txid(number), planned.height, outputs)
        for slot, place in places:
            self._receipts[slot][place] = replace(self._receipts[slot][place], spend=spend)
        funders = frozenset(script(slot) for slot, _ in places)
        for vout, (slot, amount_sat) in enumerate(planned.outputs):
            mine = self._receipts[slot]
            self._places[Coin(number, vout)] = (slot, len(mine))
            mine.append(Receipt(txid(number), vout, planned.height, amount_sat, funders))


def proposals(world: World) -> Iterator[tuple[Payment, AddressIndex]]:
    """Yields every payment in order, with the index one block before the payment confirms."""
    index = AddressIndex(world.plan)
    payments = iter(world.truth.payments)
    payment = next(payments, None)
    for block in world.plan.blocks:
        while payment and payment.height == block.height:
            yield payment, index
            payment = next(payments, None)
        index.connect(block)
