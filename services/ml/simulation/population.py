"""The population of a world: creates the actors of its parameters and runs the economy."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from services.ml.simulation import parameters as habits
from services.ml.simulation.businesses import Donation, Employer, Merchant, Processor
from services.ml.simulation.crime import (
    CollectingAddress,
    Fraudsters,
    Launderer,
    Mule,
    Ransom,
    Scam,
    Takeover,
)
from services.ml.simulation.economy import Economy
from services.ml.simulation.exchange import Exchange
from services.ml.simulation.people import Market, Payer, Seller, User
from services.ml.simulation.plan import PlannedOutput
from services.ml.simulation.truth import ActorKind
from services.ml.simulation.wallet import Wallet

if TYPE_CHECKING:
    from services.ml.simulation.economy import Actor
    from services.ml.simulation.parameters import Parameters
    from services.ml.simulation.truth import World

PUBLIC_LINK = {  # probability that the public address is linked to a DID
    ActorKind.USER: 0.15,
    ActorKind.MIXER: 0.02,
    ActorKind.SELLER: 0.4,
    ActorKind.MERCHANT: 0.6,
    ActorKind.DONATION: 0.6,
    ActorKind.EMPLOYER: 0.5,
    ActorKind.PROCESSOR: 0.5,
    ActorKind.EXCHANGE: 0.6,
    ActorKind.SCAM: 0.25,
    ActorKind.MULE: 0.15,
}


def training_world(seed: int) -> World:
    """Returns the world of a seed, which is the same on every machine."""
    rng = Random(seed)  # noqa: S311
    return _live(seed, habits.draw(rng), rng, payer=False)


def demo_world(seed: int = habits.DEMO_SEED) -> World:
    """Returns the world of the demonstration, in which the payer has a wallet of the service."""
    return _live(seed, habits.demo(), Random(seed), payer=True)  # noqa: S311


def _live(seed: int, parameters: Parameters, rng: Random, *, payer: bool) -> World:
    population = Population(Economy(parameters, rng))
    wallet = population.payer() if payer else None
    population.settle()
    return population.economy.world(seed, wallet)


class Population:
    """The actors of one economy."""

    def __init__(self, economy: Economy) -> None:
        self.economy = economy
        self.market = Market()
        self.crime = Fraudsters()
        self._shops: list[Merchant] = []
        self._endowments: list[PlannedOutput] = []
        self._exchanges()
        self._merchants()
        self._sellers()
        self._users()
        self._institutions()
        self._criminals()

    def settle(self) -> None:
        """Funds all actors and runs the economy to its last block."""
        size = 1 + len(self._endowments) // 6
        for first in range(0, len(self._endowments), size):
            self.economy.fund(self._endowments[first : first + size])
        self.economy.run()

    def _wallet(self, kind: ActorKind) -> Wallet:
        economy = self.economy
        wallet = Wallet(kind)
        wallet.main = economy.slot(wallet, link=True)
        if economy.chance(PUBLIC_LINK.get(kind, 0.0) * economy.parameters.linked):
            economy.links[wallet.main] = economy.height
        return wallet

    def _exchanges(self) -> None:
        for number in range(3):
            exchange = Exchange(
                self._wallet(ActorKind.EXCHANGE),
                batches=number < 2,
                pace=self.economy.rng.uniform(1, 4),
            )
            self.market.exchanges.append(exchange)
            self.economy.schedule(exchange, 1)

    def _exchange(self) -> Exchange:
        return self.economy.rng.choice(self.market.exchanges)

    def _merchants(self) -> None:
        economy, rng = self.economy, self.economy.rng
        shops = self._shops
        for _ in range(economy.parameters.merchants):
            merchant = Merchant(
                self._wallet(ActorKind.MERCHANT),
                self._exchange(),
                static=min(1.0, rng.uniform(0.2, 1.4) * economy.parameters.reuse + 0.1),
                sweep_blocks=economy.parameters.sweep_blocks * rng.uniform(0.5, 2),
                suppliers=rng.sample(shops, min(3, len(shops))),
            )
            shops.append(merchant)
            # Some open later, so that their first customers pay an address without history.
            opens = 0.0 if economy.chance(0.7) else rng.uniform(1, economy.parameters.blocks * 0.8)
            if opens:
                economy.schedule(ShopOpening(self.market, merchant), opens)
            else:
                self.market.open(merchant, rng.lognormvariate(0, 1))
            economy.schedule(merchant, opens + economy.wait(merchant.sweep_blocks))
        self.market.open(shops[0], 1.0)
        for _ in range(economy.parameters.processors):
            processor = Processor(
                self._wallet(ActorKind.PROCESSOR),
                shops,
                pool=rng.choice((0, 0, 4, 12)),
                sweep_blocks=rng.uniform(2, 10),
            )
            self.market.checkouts.append(processor)
            economy.schedule(processor, economy.wait(5))

    def _sellers(self) -> None:
        economy = self.economy
        for _ in range(economy.parameters.sellers):
            seller = Seller(
                self._wallet(ActorKind.SELLER),
                self._exchange(),
                reuse=economy.parameters.reuse,
                pace=economy.parameters.sweep_blocks * economy.rng.uniform(0.2, 0.8) + 1,
            )
            self.market.open(seller, economy.rng.lognormvariate(-0.5, 1))
            economy.schedule(seller, economy.wait(seller.pace))

    def user(self, kind: ActorKind) -> User:
        economy, rng = self.economy, self.economy.rng
        parameters = economy.parameters
        user = User(
            self._wallet(kind),
            self.market,
            self.crime,
            pace=parameters.users / parameters.payments_per_block * rng.lognormvariate(0, 0.4),
            favourites=[self.market.shop(rng) for _ in range(3)],
            reuse=min(0.95, parameters.reuse * rng.uniform(0.5, 1.5)),
            scale=rng.lognormvariate(0, 0.4),
            exchange=self._exchange(),
        )
        worth = round(6 * user.scale * parameters.amount_sat)
        self._endowments.append(PlannedOutput(user.wallet.main, worth))
        return user

    def _users(self) -> None:
        economy = self.economy
        for _ in range(economy.parameters.users):
            mixer = economy.chance(economy.parameters.mixers)
            user = self.user(ActorKind.MIXER if mixer else ActorKind.USER)
            self.market.people.append(user)
            if mixer:
                self.market.mixing.append(user)
            economy.schedule(user, economy.wait(user.pace))

    def _institutions(self) -> None:
        economy, rng = self.economy, self.economy.rng
        for _ in range(economy.parameters.donations):
            cause = Donation(
                self._wallet(ActorKind.DONATION),
                self._exchange(),
                hold_blocks=economy.parameters.sweep_blocks * rng.uniform(1, 6),
                crowd=self.market.people,
                appeals=economy.chance(0.4),
            )
            self.market.causes.append(cause)
            economy.schedule(cause, economy.wait(cause.hold_blocks))
        for _ in range(economy.parameters.employers):
            staff = rng.sample(self.market.people, min(len(self.market.people), rng.randint(4, 12)))
            employer = Employer(
                self._wallet(ActorKind.EMPLOYER),
                self._exchange(),
                staff,
                interval=rng.uniform(40, 90),
            )
            economy.schedule(employer, economy.wait(10))

    def _criminals(self) -> None:
        economy, rng, shops = self.economy, self.economy.rng, self.market.shops
        launderer = Launderer(Wallet(ActorKind.LAUNDERER), self.market.exchanges, rng.uniform(1, 4))
        economy.schedule(launderer, economy.wait(5))
        for _ in range(economy.parameters.scams):
            self.crime.scams.append(
                Scam(
                    Wallet(ActorKind.SCAM),
                    launderer,
                    appetite=rng.uniform(1.5, 4),
                    sweep_blocks=rng.uniform(2, 15),
                    collecting=CollectingAddress(
                        lifetime=habits.log_uniform(rng, 30, 200),
                        linked=PUBLIC_LINK[ActorKind.SCAM] * economy.parameters.linked,
                    ),
                    pull=rng.lognormvariate(0, 1),
                )
            )
        for _ in range(economy.parameters.mules):
            self.crime.mules.append(
                Mule(
                    Wallet(ActorKind.MULE),
                    launderer,
                    shops,
                    sweep_blocks=rng.uniform(1, 10),
                    collecting=CollectingAddress(
                        lifetime=habits.log_uniform(rng, 30, 200),
                        linked=PUBLIC_LINK[ActorKind.MULE] * economy.parameters.linked,
                    ),
                    pull=rng.lognormvariate(0, 1),
                )
            )
        self.crime.ransoms.append(Ransom(Wallet(ActorKind.RANSOM), launderer, rng.uniform(2, 12)))
        self.crime.takeovers.append(Takeover(Wallet(ActorKind.THIEF), launderer, shops))
        crime = self.crime
        crooks: list[Actor] = [*crime.scams, *crime.mules, *crime.ransoms, *crime.takeovers]
        for crook in crooks:
            economy.schedule(crook, economy.wait(6))

    def payer(self) -> Wallet:
        """Adds the payer of the demonstration and returns its wallet."""
        economy, rng = self.economy, self.economy.rng
        user = self.user(ActorKind.USER)
        shop = max(self._shops, key=lambda merchant: merchant.static)
        first = economy.height + 20
        payer = Payer(
            user,
            paydays=sorted(rng.sample(range(first, economy.end - 10), 6)),
            payments=sorted(rng.sample(range(first + 40, economy.end - 10), 3)),
            shop=shop,
        )
        economy.schedule(payer, 1)
        return user.wallet


class ShopOpening:
    """Opens a merchant's shop when it acts."""

    def __init__(self, market: Market, merchant: Merchant) -> None:
        self._market, self._merchant = market, merchant

    def act(self, economy: Economy) -> float:
        if self._merchant not in self._market.shops:
            self._market.open(self._merchant, economy.rng.lognormvariate(0, 1))
        return float(10**6)
