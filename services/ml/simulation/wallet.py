"""A simulated wallet: its coins, its address slots, and the slots linked to its owner's DID."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from services.ml.simulation.plan import Coin
    from services.ml.simulation.truth import ActorKind

MAX_INPUTS = 60


@dataclass(slots=True, eq=False)
class Wallet:
    """A wallet of confirmed coins; the economy adds coins at the end of each block."""

    kind: ActorKind
    main: int = -1  # the slot that the owner reuses
    coins: dict[Coin, tuple[int, int]] = field(default_factory=dict)  # coin -> slot, amount in sat
    linked: dict[int, int] = field(default_factory=dict)  # slot of S -> height of its link

    def balance(self, slots: Container[int] | None = None) -> int:
        return sum(amount for slot, amount in self.coins.values() if slots is None or slot in slots)

    def choose(self, target_sat: int, slots: Container[int] | None = None) -> list[Coin]:
        """Returns the smallest coin that covers the target, else the largest coins, or none."""
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
        """Removes the coins and returns their sum in sat."""
        return sum(self.coins.pop(coin)[1] for coin in coins)
