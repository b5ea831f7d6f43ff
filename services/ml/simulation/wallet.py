"""A simulated wallet: coins, address slots, and which of them are linked to its owner's DID."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from services.ml.simulation.plan import Coin
    from services.ml.simulation.truth import Kind

MAX_INPUTS = 60


@dataclass(slots=True, eq=False)
class Wallet:
    """Coins are confirmed; the economy adds them at the end of the block that pays them."""

    kind: Kind
    main: int = -1  # the slot it hands out when it hands out one again
    coins: dict[Coin, tuple[int, int]] = field(default_factory=dict)  # coin -> slot, amount
    linked: dict[int, int] = field(default_factory=dict)  # slot of S -> height of its link

    def balance(self, slots: Container[int] | None = None) -> int:
        return sum(amount for slot, amount in self.coins.values() if slots is None or slot in slots)

    def choose(self, target_sat: int, slots: Container[int] | None = None) -> list[Coin]:
        """The smallest coin that covers the target, else the largest ones; empty if too little."""
        usable = [
            (amount, coin)
            for coin, (slot, amount) in self.coins.items()
            if slots is None or slot in slots
        ]
        covering = [(amount, coin) for amount, coin in usable if amount >= target_sat]
        if covering:
            return [min(covering)[1]]
        chosen, total = [], 0
        for amount, coin in sorted(usable, reverse=True)[:MAX_INPUTS]:
            chosen.append(coin)
            total += amount
            if total >= target_sat:
                return chosen
        return []

    def take(self, coins: Iterable[Coin]) -> int:
        """Remove the coins; how much they were, in sat."""
        return sum(self.coins.pop(coin)[1] for coin in coins)
