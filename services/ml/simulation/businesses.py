"""Licit businesses: merchants, processors, donations and employers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.ml.simulation.plan import DUST_SAT, PlannedOutput

if TYPE_CHECKING:
    from services.ml.simulation.economy import Economy
    from services.ml.simulation.exchange import Exchange
    from services.ml.simulation.people import User
    from services.ml.simulation.wallet import Wallet


@dataclass(slots=True, eq=False)
class Merchant:
    """Receives at one address or at fresh ones, pays suppliers, refunds, and deposits the rest."""

    wallet: Wallet
    exchange: Exchange
    static: float  # probability that the next invoice has the main address
    sweep_blocks: float
    suppliers: list[Merchant] = field(default_factory=list)
    customers: list[int] = field(default_factory=list)  # slots that may receive a refund

    def address(self, economy: Economy) -> int:
        if economy.chance(self.static):
            return self.wallet.main
        return economy.slot(self.wallet, link=economy.chance(0.2))

    def act(self, economy: Economy) -> float:
        linked = self.wallet.balance(self.wallet.linked)
        if self.suppliers and economy.chance(0.6) and linked > economy.parameters.amount_sat:
            supplier = economy.rng.choice(self.suppliers)
            amount_sat = round(linked * economy.rng.uniform(0.1, 0.5))
            economy.propose(
                self.wallet, supplier.address(economy), amount_sat, change=self.wallet.main
            )
        if self.customers and economy.chance(0.15):
            refund_sat, slot = economy.amount(0.5), economy.rng.choice(self.customers)
            economy.propose(self.wallet, slot, refund_sat, change=self.wallet.main)
        if economy.chance(0.5):
            economy.sweep(self.wallet, self.exchange.deposit(economy, self.wallet))
        return economy.wait(self.sweep_blocks)


@dataclass(slots=True, eq=False)
class Processor:
    """Uses a fresh address per invoice, or one of a small pool, and settles with its shops."""

    wallet: Wallet
    shops: list[Merchant]
    pool: int  # 0: every invoice has its own address
    sweep_blocks: float
    _shown: list[int] = field(default_factory=list)

    def address(self, economy: Economy) -> int:
        if len(self._shown) < self.pool or not self.pool:
            self._shown.append(economy.slot(self.wallet))
            return self._shown[-1]
        return economy.rng.choice(self._shown)

    def act(self, economy: Economy) -> float:
        main = self.wallet.main
        settled, shops = {main}, economy.rng.sample(self.shops, 2)
        each = round(self.wallet.balance(settled) * 0.45)
        if each > 100 * DUST_SAT and economy.chance(0.5):
            due = [PlannedOutput(shop.wallet.main, each) for shop in shops]
            economy.send(self.wallet, due, change=main, slots=settled)
        shown = [coin for coin, (slot, _) in self.wallet.coins.items() if slot != main]
        economy.sweep(self.wallet, main, shown)
        return economy.wait(self.sweep_blocks)


@dataclass(slots=True, eq=False)
class Donation:
    """A charity with one public address: many unrelated payers pay it once, as with a scam.

    An appeal, as after a disaster, uses a fresh address, has many donors and is spent soon.
    """

    wallet: Wallet
    exchange: Exchange
    hold_blocks: float
    crowd: list[User]
    appeals: bool

    def address(self, economy: Economy) -> int:
        return self.wallet.main

    def act(self, economy: Economy) -> float:
        rng = economy.rng
        if self.wallet.coins and economy.chance(0.6):
            deposit = self.exchange.deposit(economy, self.wallet)
            amount_sat = round(self.wallet.balance() * rng.uniform(0.3, 0.9))
            if amount_sat > DUST_SAT:
                economy.propose(self.wallet, deposit, amount_sat, change=self.wallet.main)
        if self.appeals and economy.chance(0.3):
            self.wallet.main = economy.slot(self.wallet, link=True)
            if economy.chance(0.5 * economy.parameters.linked):
                economy.links[self.wallet.main] = economy.height
            for user in rng.sample(self.crowd, min(len(self.crowd), rng.randint(5, 15))):
                economy.schedule(AppealDonor(user, self), economy.wait(8))
        return economy.wait(self.hold_blocks)


@dataclass(slots=True, eq=False)
class AppealDonor:
    """A user who donates once to one appeal."""

    user: User
    cause: Donation
    _gave: bool = False

    def act(self, economy: Economy) -> float:
        if not self._gave:
            self._gave = True
            gift_sat = economy.amount(0.4 * self.user.scale)
            self.user.pay(economy, self.cause.address(economy), gift_sat)
        return NEVER_BLOCKS


@dataclass(slots=True, eq=False)
class Employer:
    """Pays wages at intervals, each as a separate payment."""

    wallet: Wallet
    exchange: Exchange
    staff: list[User]
    interval: float

    def act(self, economy: Economy) -> float:
        wages = [(user, economy.amount(6 * user.scale, spread=0.2)) for user in self.staff]
        due = sum(wage_sat for _, wage_sat in wages)
        missing = round(1.2 * due) - self.wallet.balance(self.wallet.linked)
        if missing > 0:
            # One confirmed coin for each wage.
            part = round(missing / len(wages)) + economy.parameters.amount_sat
            for _ in wages:
                self.exchange.withdraw(self.wallet.main, part)
            return 4
        for user, wage_sat in wages:
            economy.propose(self.wallet, user.address(economy), wage_sat, change=self.wallet.main)
        return self.interval


NEVER_BLOCKS = float(10**6)
