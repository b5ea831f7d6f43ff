"""Exchanges, where licit and illicit actors exchange coins for money and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.ml.simulation.plan import PlannedOutput

if TYPE_CHECKING:
    from services.ml.simulation.economy import Economy
    from services.ml.simulation.wallet import Wallet

MAX_PAYOUTS = 30  # in one transaction


@dataclass(slots=True, eq=False)
class Exchange:
    """Sweeps one deposit address per customer into a hot wallet, which pays withdrawals."""

    wallet: Wallet
    batches: bool  # otherwise it peels one payout after another off a large coin
    pace: float
    _deposits: dict[Wallet, int] = field(default_factory=dict)
    _queue: list[PlannedOutput] = field(default_factory=list)

    def deposit(self, economy: Economy, customer: Wallet) -> int:
        if customer not in self._deposits:
            self._deposits[customer] = economy.slot(self.wallet)
        return self._deposits[customer]

    def withdraw(self, slot: int, amount_sat: int) -> None:
        self._queue.append(PlannedOutput(slot, amount_sat))

    def act(self, economy: Economy) -> float:
        self._collect(economy)
        hot = self.wallet.main
        due = self._queue[:MAX_PAYOUTS] if self.batches else self._queue[:3]
        owed = sum(output.amount_sat for output in due)
        if self.wallet.balance() < 2 * owed + economy.parameters.amount_sat:
            bought_sat = max(2 * owed, 50 * economy.parameters.amount_sat)
            economy.fund([PlannedOutput(hot, bought_sat)])
            return 1
        payouts = [due] if self.batches and due else [[output] for output in due]
        for outputs in payouts:
            change = hot if self.batches else economy.slot(self.wallet)
            if economy.send(self.wallet, outputs, change=change) is not None:
                self._queue = self._queue[len(outputs) :]
        return economy.wait(self.pace)

    def _collect(self, economy: Economy) -> None:
        places = set(self._deposits.values())
        coins = [coin for coin, (slot, _) in self.wallet.coins.items() if slot in places]
        if len(coins) >= 3 or (coins and economy.chance(0.3)):
            economy.sweep(self.wallet, self.wallet.main, coins)
