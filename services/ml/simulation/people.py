"""Licit people: users who shop, donate, save and mix, sellers, and the demonstration's payer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from services.ml.simulation.plan import DUST_SAT, PlannedOutput
from services.ml.simulation.truth import ActorKind

if TYPE_CHECKING:
    from random import Random

    from services.ml.simulation.economy import Economy
    from services.ml.simulation.exchange import Exchange
    from services.ml.simulation.wallet import Wallet


class Payee(Protocol):
    """An actor that can be paid."""

    def address(self, economy: Economy) -> int:
        """Returns the slot to pay now."""
        ...


class FraudSource(Protocol):
    def defraud(self, economy: Economy, victim: User) -> None: ...


@dataclass(slots=True)
class Market:
    """The counterparties that users may pay."""

    shops: list[Payee] = field(default_factory=list)
    people: list[User] = field(default_factory=list)
    causes: list[Payee] = field(default_factory=list)
    checkouts: list[Payee] = field(default_factory=list)  # of payment processors
    exchanges: list[Exchange] = field(default_factory=list)
    mixing: list[User] = field(default_factory=list)
    _popularity: list[float] = field(default_factory=list)  # of the shops

    def open(self, shop: Payee, popularity: float) -> None:
        self.shops.append(shop)
        self._popularity.append(popularity)

    def shop(self, rng: Random) -> Payee:
        return rng.choices(self.shops, self._popularity)[0]


@dataclass(slots=True, eq=False)
class User:
    """Pays from S, receives change inside or outside of S, and refills S if it runs low."""

    wallet: Wallet
    market: Market
    crime: FraudSource
    pace: float  # mean blocks between payments
    favourites: list[Payee]
    reuse: float
    scale: float = 1.0  # typical amount, in multiples of the world's median payment
    exchange: Exchange | None = None

    def address(self, economy: Economy) -> int:
        if self.wallet.kind is not ActorKind.MIXER and economy.chance(self.reuse):
            return self.wallet.main
        return economy.slot(self.wallet, link=economy.chance(0.3))

    def change(self, economy: Economy) -> int:
        if self.wallet.kind is not ActorKind.MIXER and economy.chance(self.reuse):
            return self.wallet.main
        return economy.slot(self.wallet)

    def pay(self, economy: Economy, slot: int, amount_sat: int) -> bool:
        return economy.propose(self.wallet, slot, amount_sat, change=self.change(economy))

    def afford(self, economy: Economy, wanted_sat: int) -> int:
        """Returns the amount in sat, limited to a large random share of S."""
        spendable = self.wallet.balance(self.wallet.linked)
        return max(DUST_SAT, min(wanted_sat, round(spendable * economy.rng.uniform(0.5, 0.97))))

    def act(self, economy: Economy) -> float:
        spendable = self.wallet.balance(self.wallet.linked)
        if spendable < 2 * self.scale * economy.parameters.amount_sat:
            self.refill(economy)
        if economy.chance(FRAUD_ATTEMPTS_PER_FRAUD * economy.parameters.illicit_share):
            self.crime.defraud(economy, self)
        else:
            self.live(economy)
        return economy.wait(self.pace)

    def live(self, economy: Economy) -> None:
        """Makes one ordinary payment."""
        market, rng = self.market, economy.rng
        amount_sat = self.afford(economy, economy.amount(self.scale))
        habit = rng.choices(HABITS, HABIT_WEIGHTS)[0]
        if habit == "favourite":
            self.pay(economy, rng.choice(self.favourites).address(economy), amount_sat)
        elif habit == "shop":
            self.pay(economy, market.shop(rng).address(economy), amount_sat)
        elif habit == "friend":
            self.pay(economy, rng.choice(market.people).address(economy), amount_sat)
        elif habit == "cause":
            gift_sat = self.afford(economy, economy.amount(0.3 * self.scale))
            self.pay(economy, rng.choice(market.causes).address(economy), gift_sat)
        elif habit == "checkout":
            price_sat = economy.amount(rng.choice((1, 1, 1.5, 4)) * self.scale)
            price_sat = self.afford(economy, price_sat)
            self.pay(economy, rng.choice(market.checkouts).address(economy), price_sat)
        elif habit == "save":
            self.save(economy)
        elif habit == "mix" and self.wallet.kind is ActorKind.MIXER:
            mix(economy, [self, *rng.sample(market.mixing, min(4, len(market.mixing)))])
        elif habit == "relink":
            economy.slot(self.wallet, link=True)

    def save(self, economy: Economy) -> None:
        """Moves most of S at once to the exchange or to a fresh address of the same user."""
        amount_sat = round(self.wallet.balance(self.wallet.linked) * economy.rng.uniform(0.6, 0.97))
        if amount_sat <= DUST_SAT:
            return
        if self.exchange and economy.chance(0.6):
            self.pay(economy, self.exchange.deposit(economy, self.wallet), amount_sat)
        else:
            self.pay(economy, economy.slot(self.wallet), amount_sat)

    def refill(self, economy: Economy) -> None:
        """Moves change back into S, or withdraws from the exchange."""
        wanted = round(economy.rng.uniform(4, 12) * self.scale * economy.parameters.amount_sat)
        outside = [coin for coin, (slot, _) in self.wallet.coins.items() if self.idle(slot)]
        value = sum(self.wallet.coins[coin][1] for coin in outside)
        main = self.wallet.main if economy.chance(0.8) else economy.slot(self.wallet, link=True)
        if value >= wanted / 2:
            economy.sweep(self.wallet, main, outside)
        elif self.exchange:
            self.exchange.withdraw(main, wanted)

    def idle(self, slot: int) -> bool:
        return slot not in self.wallet.linked


HABITS = ("favourite", "shop", "friend", "cause", "checkout", "save", "mix", "relink")
HABIT_WEIGHTS = (0.34, 0.28, 0.12, 0.07, 0.09, 0.04, 0.05, 0.01)


@dataclass(slots=True, eq=False)
class Seller:
    """Sells to unrelated buyers and deposits the receipts soon, as mules do."""

    wallet: Wallet
    exchange: Exchange
    reuse: float
    pace: float

    def address(self, economy: Economy) -> int:
        if economy.chance(0.5 + self.reuse / 2):
            return self.wallet.main
        return economy.slot(self.wallet, link=True)

    def act(self, economy: Economy) -> float:
        balance = self.wallet.balance()
        if balance > 2 * economy.parameters.amount_sat:
            deposit = self.exchange.deposit(economy, self.wallet)
            share = economy.rng.uniform(0.5, 0.95)
            economy.propose(self.wallet, deposit, round(balance * share), change=self.wallet.main)
        return economy.wait(self.pace)


FRAUD_ATTEMPTS_PER_FRAUD = 1.1  # above 1, because businesses pay as well and are never defrauded


@dataclass(slots=True)
class Payer:
    """The payer of the demonstration: receives wages, and pays one shop from time to time."""

    user: User
    paydays: list[int]
    payments: list[int]
    shop: Payee

    def act(self, economy: Economy) -> float:
        if economy.height in self.payments:
            amount_sat = round(economy.amount(spread=0.3), -5)
            shop, change = self.shop.address(economy), economy.slot(self.user.wallet)
            economy.propose(self.user.wallet, shop, amount_sat, change=change, by_payer=True)
        if economy.height in self.paydays and self.user.exchange:
            wage_sat = economy.rng.randint(60, 140) * 1_000_000
            self.user.exchange.withdraw(self.user.wallet.main, wage_sat)
        return 1


def mix(economy: Economy, partners: list[User]) -> None:
    """Makes a coinjoin: equal outputs to fresh addresses of all partners, and change for each."""
    distinct = list({id(user): user for user in partners}.values())
    coins = [
        (user.wallet, max(user.wallet.coins, key=lambda coin: user.wallet.coins[coin][1]))
        for user in distinct
        if user.wallet.coins
    ]
    if len(coins) < 3:
        return
    values = [wallet.coins[coin][1] for wallet, coin in coins]
    share = economy.fee(1, 2) + 50
    size = round((min(values) - share) * 0.9)
    if size <= 10 * DUST_SAT:
        return
    equal = [PlannedOutput(economy.slot(wallet), size) for wallet, _ in coins]
    rest = [
        PlannedOutput(economy.slot(wallet), value - size - share)
        for (wallet, _), value in zip(coins, values, strict=True)
        if value - size - share >= DUST_SAT
    ]
    economy.join(coins, [*equal, *rest])
