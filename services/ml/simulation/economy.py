"""The ledger and calendar of a simulated economy, in which transactions confirm in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from services.ml.simulation.plan import (
    DUST_SAT,
    FUNDING_SLOT,
    MATURITY_BLOCKS,
    Coin,
    Plan,
    PlannedBlock,
    PlannedOutput,
    PlannedTransaction,
    subsidy_sat,
)
from services.ml.simulation.truth import ActorKind, GroundTruth, Payment, World
from services.ml.simulation.wallet import MAX_INPUTS, Wallet

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from random import Random

    from services.ml.simulation.parameters import Parameters

FIRST_BUSY_HEIGHT = 110  # the first block with transactions
ROUND_SATS = (1_000_000, 5_000_000, 10_000_000)


class Actor(Protocol):
    def act(self, economy: Economy) -> float:
        """Acts in the current block. Returns the number of blocks until the next action."""
        ...


class Economy:
    """An economy that grows by one block at a time.

    A coin can be spent in the block after the one that creates it.
    """

    def __init__(self, parameters: Parameters, rng: Random) -> None:
        self.parameters = parameters
        self.rng = rng
        self.height = 0
        self.links: dict[int, int] = {}  # slot -> height of its public link
        self._owners: list[Wallet] = []
        self._transactions: list[PlannedTransaction] = []
        self._blocks: list[PlannedBlock] = []
        self._payments: list[Payment] = []
        self._calendar: dict[int, list[Actor]] = {}
        self._miner = Wallet(ActorKind.MINER)
        self._arriving: list[tuple[Wallet, Coin, PlannedOutput]] = []
        self.slot(self._miner)
        self._open()

    @property
    def end(self) -> int:
        """The height of the last block."""
        return FIRST_BUSY_HEIGHT + self.parameters.blocks - 1

    def _open(self) -> None:
        """Mines the empty blocks whose subsidies fund the economy."""
        while self.height < FIRST_BUSY_HEIGHT - 1:
            self._begin()
            self._close()
        self._begin()

    def run(self) -> None:
        """Runs all actors in every remaining block."""
        while True:
            for actor in self._calendar.pop(self.height, ()):
                self.schedule(actor, actor.act(self))
            self._close()
            if self.height == self.end:
                break
            self._begin()

    def world(self, seed: int, payer: Wallet | None = None) -> World:
        plan = Plan(
            tuple(self._blocks),
            tuple(self._transactions),
            len(self._owners),
            payer.main if payer else None,
        )
        truth = GroundTruth(
            tuple(wallet.kind for wallet in self._owners), tuple(self._payments), self.links
        )
        return World(seed, self.parameters, plan, truth)

    def schedule(self, actor: Actor, blocks: float) -> None:
        self._calendar.setdefault(self.height + max(1, round(blocks)), []).append(actor)

    def slot(self, owner: Wallet, *, link: bool = False) -> int:
        """Returns a fresh slot; ``link`` adds it to S, the slots linked to the owner's DID."""
        self._owners.append(owner)
        slot = len(self._owners) - 1
        if link:
            owner.linked[slot] = self.height
        return slot

    def owner(self, slot: int) -> Wallet:
        return self._owners[slot]

    def wait(self, mean_blocks: float) -> float:
        return self.rng.expovariate(1 / mean_blocks)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def amount(self, times: float = 1.0, *, spread: float | None = None) -> int:
        """Draws an amount in sat, log-normal around ``times`` the median payment; some round."""
        habits = self.parameters
        scale = self.rng.lognormvariate(0, habits.amount_spread if spread is None else spread)
        amount_sat = max(20_000, round(habits.amount_sat * times * scale))
        if not self.chance(habits.round_share):
            return amount_sat
        unit = self.rng.choice(
            [unit for unit in ROUND_SATS if unit <= amount_sat] or ROUND_SATS[:1]
        )
        return max(unit, round(amount_sat / unit) * unit)

    def fund(self, outputs: Sequence[PlannedOutput]) -> bool:
        """Pays the outputs from mined coins. Returns False if too few have matured."""
        return self.send(self._miner, outputs, change=FUNDING_SLOT) is not None

    def send(
        self,
        wallet: Wallet,
        outputs: Sequence[PlannedOutput],
        *,
        change: int,
        slots: Container[int] | None = None,
        by_payer: bool = False,
    ) -> int | None:
        """Pays the outputs from the wallet's coins on ``slots`` (None: on all).

        Returns the index of the transaction, or None if the coins do not suffice.
        """
        target = sum(output.amount_sat for output in outputs)
        coins = self._cover(wallet, target, len(outputs) + 1, slots)
        if not coins:
            return None
        rest = wallet.take(coins) - target - self.fee(len(coins), len(outputs) + 1)
        kept = [PlannedOutput(change, rest)] if rest >= DUST_SAT else []
        return self._confirm(coins, [*outputs, *kept], by_payer=by_payer)

    def _cover(
        self, wallet: Wallet, target_sat: int, outputs: int, slots: Container[int] | None
    ) -> list[Coin]:
        """Returns coins for the target and the fee of spending them, or none if too few."""
        expected = 1
        while True:
            coins = wallet.choose(target_sat + self.fee(expected, outputs), slots)
            if len(coins) <= expected:
                return coins
            expected = len(coins)

    def sweep(self, wallet: Wallet, to: int, coins: Iterable[Coin] | None = None) -> int | None:
        """Moves coins (None: all) to one slot.

        Returns the index of the transaction, or None if the coins are not worth the fee.
        """
        chosen = list(wallet.coins if coins is None else coins)[:MAX_INPUTS]
        total = sum(wallet.coins[coin][1] for coin in chosen)
        amount_sat = total - self.fee(len(chosen), 1)
        if not chosen or amount_sat < DUST_SAT:
            return None
        wallet.take(chosen)
        return self._confirm(chosen, [PlannedOutput(to, amount_sat)])

    def join(self, coins: Sequence[tuple[Wallet, Coin]], outputs: Sequence[PlannedOutput]) -> int:
        """Makes one transaction of several wallets; the fee is what the outputs leave."""
        for wallet, coin in coins:
            wallet.take([coin])
        return self._confirm([coin for _, coin in coins], outputs)

    def propose(
        self,
        sender: Wallet,
        recipient_slot: int,
        amount_sat: int,
        *,
        change: int,
        stolen: bool = False,
        by_payer: bool = False,
    ) -> bool:
        """Makes a payment from S, which becomes a sample. Returns False if S has too little."""
        payee = PlannedOutput(recipient_slot, amount_sat)
        linked = dict(sender.linked)
        sent = self.send(sender, [payee], change=change, slots=linked, by_payer=by_payer)
        if sent is None:
            return False
        self._payments.append(
            Payment(
                transaction=sent,
                height=self.height,
                sender_slots=tuple(linked),
                sender_link_heights=tuple(linked.values()),
                recipient_slot=recipient_slot,
                recipient_link_height=self.links.get(recipient_slot),
                amount_sat=amount_sat,
                recipient=self.owner(recipient_slot).kind,
                stolen=stolen,
            )
        )
        return True

    def fee(self, inputs: int, outputs: int) -> int:
        """Returns the fee in sat for an upper bound of the size of P2WPKH transactions."""
        return (11 + 68 * inputs + 31 * outputs) * self.parameters.fee_rate

    def _confirm(
        self, coins: Sequence[Coin], outputs: Sequence[PlannedOutput], *, by_payer: bool = False
    ) -> int:
        index = len(self._transactions)
        self._transactions.append(
            PlannedTransaction(self.height, tuple(coins), tuple(outputs), by_payer)
        )
        if not by_payer:
            self._arriving += [
                (self._owners[output.slot], Coin(index, vout), output)
                for vout, output in enumerate(outputs)
            ]
        return index

    def _begin(self) -> None:
        self.height += 1
        self._first = len(self._transactions)
        reward = PlannedOutput(FUNDING_SLOT, subsidy_sat(self.height))
        self._transactions.append(PlannedTransaction(self.height, (), (reward,)))
        matured = self.height - MATURITY_BLOCKS
        if 1 <= matured < FIRST_BUSY_HEIGHT:
            block = self._blocks[matured - 1]
            coin = Coin(block.transactions[0], 0)
            self._miner.coins[coin] = (FUNDING_SLOT, subsidy_sat(matured))

    def _close(self) -> None:
        self._blocks.append(PlannedBlock(self.height, range(self._first, len(self._transactions))))
        for wallet, coin, output in self._arriving:
            wallet.coins[coin] = (output.slot, output.amount_sat)
        self._arriving = []
