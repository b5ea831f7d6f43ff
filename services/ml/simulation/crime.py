"""Illicit actors. Licit actors show the same patterns (collecting, forwarding, fresh addresses,
emptying a wallet, peeling), for other counterparties and other durations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from services.ml.simulation.plan import DUST_SAT, PlannedOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.ml.simulation.economy import Economy
    from services.ml.simulation.exchange import Exchange
    from services.ml.simulation.people import Payee, User
    from services.ml.simulation.wallet import Wallet

STRUCTURING_LIMIT_SAT = 9_000_000  # mules forward parts below a reporting threshold of 0.1 BTC


@dataclass(slots=True, eq=False)
class Launderer:
    """Receives stolen coins, peels off small parts and deposits them at an exchange."""

    wallet: Wallet
    exchanges: list[Exchange]
    pace: float

    def intake(self, economy: Economy) -> int:
        return economy.slot(self.wallet)

    def act(self, economy: Economy) -> float:
        rng = economy.rng
        if self.wallet.coins:
            coin = rng.choice(list(self.wallet.coins))
            slot, value = self.wallet.coins[coin]
            peel = round(value * rng.uniform(0.05, 0.3))
            if peel > 20 * DUST_SAT:
                deposit = rng.choice(self.exchanges).deposit(economy, self.wallet)
                payee = PlannedOutput(deposit, peel)
                rest = economy.slot(self.wallet)
                economy.send(self.wallet, [payee], change=rest, slots={slot})
        return economy.wait(self.pace)


@dataclass(slots=True, eq=False)
class CollectingAddress:
    """The address at which an illicit actor collects: used for a lifetime, then another one."""

    lifetime: float  # blocks, on average
    linked: float  # the chance that it is linked to a DID
    _until: float = -1  # height

    def address(self, wallet: Wallet, economy: Economy) -> int:
        """Returns the slot of the current address, which is the main one of the wallet."""
        if economy.height > self._until:
            wallet.main = economy.slot(wallet)
            self._until = economy.height + self.lifetime * economy.rng.uniform(0.5, 1.5)
            if economy.chance(self.linked):
                economy.links[wallet.main] = economy.height
        return wallet.main


@dataclass(slots=True, eq=False)
class Scam:
    """A fake shop, giveaway or fund: uses one address for its lifetime, then another one."""

    wallet: Wallet
    launderer: Launderer
    appetite: float  # requested amount, in multiples of the world's median payment
    sweep_blocks: float
    collecting: CollectingAddress
    pull: float

    def defraud(self, economy: Economy, victim: User) -> None:
        asked_sat = economy.amount(self.appetite * victim.scale)
        victim.pay(
            economy,
            self.collecting.address(self.wallet, economy),
            victim.afford(economy, asked_sat),
        )

    def act(self, economy: Economy) -> float:
        economy.sweep(self.wallet, self.launderer.intake(economy))
        return economy.wait(self.sweep_blocks)


@dataclass(slots=True, eq=False)
class Mule:
    """An account that receives for others, keeps and spends a share, and forwards in parts."""

    wallet: Wallet
    launderer: Launderer
    shops: list[Payee]
    sweep_blocks: float
    collecting: CollectingAddress
    pull: float

    def defraud(self, economy: Economy, victim: User) -> None:
        asked_sat = economy.amount(1.5 * victim.scale)
        victim.pay(
            economy,
            self.collecting.address(self.wallet, economy),
            victim.afford(economy, asked_sat),
        )

    def act(self, economy: Economy) -> float:
        rng, balance = economy.rng, self.wallet.balance()
        part = min(STRUCTURING_LIMIT_SAT, round(0.45 * balance)) - rng.randint(0, 900) * 1_000
        parts = min(8, int(0.9 * balance / part)) if part > 20 * DUST_SAT else 0
        if parts:
            slots = [self.launderer.intake(economy) for _ in range(parts)]
            outputs = [PlannedOutput(slot, part) for slot in slots]
            economy.send(self.wallet, outputs, change=self.wallet.main)
        elif balance > 100 * DUST_SAT and economy.chance(0.5):
            shop = PlannedOutput(rng.choice(self.shops).address(economy), balance // 3)
            economy.send(self.wallet, [shop], change=self.wallet.main)
        return economy.wait(self.sweep_blocks)


@dataclass(slots=True, eq=False)
class Ransom:
    """An extortionist: demands a large round amount to a fresh address for each victim."""

    wallet: Wallet
    launderer: Launderer
    sweep_blocks: float
    pull: float = 1.0

    def defraud(self, economy: Economy, victim: User) -> None:
        asked_sat = max(1, round(economy.amount(4 * victim.scale) / 1_000_000)) * 1_000_000
        self.wallet.main = economy.slot(self.wallet)
        victim.pay(economy, self.wallet.main, victim.afford(economy, asked_sat))

    def act(self, economy: Economy) -> float:
        economy.sweep(self.wallet, self.launderer.intake(economy))
        return economy.wait(self.sweep_blocks)


@dataclass(slots=True, eq=False)
class Takeover:
    """A thief with stolen keys: the victim's wallet pays the thief, or a shop of the thief."""

    wallet: Wallet
    launderer: Launderer
    shops: list[Payee]
    pull: float = 1.0

    def defraud(self, economy: Economy, victim: User) -> None:
        spendable = victim.wallet.balance(victim.wallet.linked)
        amount_sat = round(spendable * economy.rng.uniform(0.5, 0.96))
        if amount_sat <= DUST_SAT:
            return
        if economy.chance(0.3):  # the thief links an address of its own before emptying the wallet
            economy.slot(victim.wallet, link=True)
        slot = self.wallet.main = economy.slot(self.wallet)
        if economy.chance(0.1):
            slot = economy.rng.choice(self.shops).address(economy)
        economy.propose(victim.wallet, slot, amount_sat, change=victim.wallet.main, stolen=True)

    def act(self, economy: Economy) -> float:
        economy.sweep(self.wallet, self.launderer.intake(economy))
        return economy.wait(6)


class Fraudster(Protocol):
    """An illicit actor that a victim pays."""

    wallet: Wallet
    pull: float  # number of victims, relative to others of its kind

    def defraud(self, economy: Economy, victim: User) -> None: ...


@dataclass(slots=True)
class Fraudsters:
    """All illicit actors; selects the one that defrauds a victim."""

    scams: list[Scam] = field(default_factory=list)
    mules: list[Mule] = field(default_factory=list)
    ransoms: list[Ransom] = field(default_factory=list)
    takeovers: list[Takeover] = field(default_factory=list)
    _robbed: set[tuple[int, User]] = field(default_factory=set)

    def _crews(self) -> tuple[Sequence[Fraudster], ...]:
        return self.scams, self.mules, self.ransoms, self.takeovers

    def defraud(self, economy: Economy, victim: User) -> None:
        # No victim pays the same illicit address twice.
        chances = {
            crook: weight * crook.pull / sum(other.pull for other in crew)
            for crew, weight in zip(self._crews(), economy.parameters.typologies, strict=True)
            for crook in crew
            if (crook.wallet.main, victim) not in self._robbed
        }
        if chances:
            crook = economy.rng.choices(list(chances), list(chances.values()))[0]
            crook.defraud(economy, victim)
            self._robbed.add((crook.wallet.main, victim))
