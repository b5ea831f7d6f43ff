"""The parameters of simulated worlds, drawn once per seed.

Ranges are deliberately wide. No value was fitted to real transactions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

DEMO_SEED = 7  # in no training, validation, calibration or test set
USER_PAYMENTS = (1_000, 6_000)  # by users, over the life of a world


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The parameters of one world."""

    blocks: int  # with transactions, after the empty blocks that fund them
    users: int
    merchants: int
    sellers: int
    donations: int
    employers: int
    processors: int
    mixers: float  # share of users who join coinjoins
    reuse: float  # probability that a receiver uses an address again
    linked: float  # scales the probability that an address is publicly linked to a DID
    payments_per_block: float  # by users
    amount_sat: int  # median payment by a user
    amount_spread: float  # sigma of the log of payments
    round_share: float  # share of payments with a round amount
    sweep_blocks: float  # mean time until businesses move their receipts
    fee_rate: int  # sat per virtual byte
    scams: int
    mules: int
    illicit_share: float  # approximate share of frauds among payments
    typologies: tuple[float, float, float, float]  # weights of scam, mule, ransom, takeover


def draw(rng: Random) -> Parameters:
    """Draws the parameters of a training world."""
    payments_per_block = rng.uniform(3, 9)
    return Parameters(
        blocks=round(log_uniform(rng, *USER_PAYMENTS) / payments_per_block),
        users=rng.randint(80, 200),
        merchants=rng.randint(12, 30),
        sellers=rng.randint(4, 12),
        donations=rng.randint(2, 6),
        employers=rng.randint(2, 4),
        processors=rng.randint(1, 3),
        mixers=rng.uniform(0.03, 0.15),
        reuse=rng.uniform(0.05, 0.8),
        linked=rng.uniform(0.2, 1.0),
        payments_per_block=payments_per_block,
        amount_sat=round(log_uniform(rng, 1_000_000, 12_000_000)),
        amount_spread=rng.uniform(0.7, 1.2),
        round_share=rng.uniform(0.1, 0.5),
        sweep_blocks=log_uniform(rng, 4, 60),
        fee_rate=rng.randint(2, 12),
        scams=rng.randint(1, 6),
        mules=rng.randint(1, 6),
        illicit_share=log_uniform(rng, 0.005, 0.10),
        typologies=(
            rng.uniform(0.5, 1.5),
            rng.uniform(0.4, 1.2),
            rng.uniform(0.1, 0.5),
            rng.uniform(0.1, 0.5),
        ),
    )


def demo() -> Parameters:
    """Returns the parameters of the demonstration: about 300 blocks and 1,200 transactions."""
    return Parameters(
        blocks=190,
        users=70,
        merchants=10,
        sellers=4,
        donations=2,
        employers=2,
        processors=1,
        mixers=0.06,
        reuse=0.6,
        linked=0.0,  # only the payer has a DID
        payments_per_block=3.9,
        amount_sat=8_000_000,
        amount_spread=0.8,
        round_share=0.3,
        sweep_blocks=20,
        fee_rate=5,
        scams=2,
        mules=2,
        illicit_share=0.07,
        typologies=(1.2, 0.7, 0.2, 0.2),
    )


def log_uniform(rng: Random, low: float, high: float) -> float:
    """Draws a value whose logarithm is uniform between those of ``low`` and ``high``."""
    return exp(rng.uniform(log(low), log(high)))
