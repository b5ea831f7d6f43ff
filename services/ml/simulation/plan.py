"""The plan of a simulated economy: the transactions of each block, before a chain renders them.

A plan identifies things by number. An *address slot* is an index from which a renderer derives a
key or a script; a *transaction* is an index into ``Plan.transactions``; an output is (transaction,
vout). Each renderer makes its own txids, signatures and block hashes, so two renderers of one plan
agree on every feature but on no hash.

A renderer on a fresh regtest chain may rely on the following:

- blocks have the heights 1, 2, ... without a gap; the genesis block is not planned;
- the first transaction of a block is its coinbase; it pays ``FUNDING_SLOT``. Only coinbases of
  blocks without other transactions are ever spent, after ``MATURITY`` blocks, so that their amount
  is the bare subsidy. A miner may add fees to the others;
- every other transaction spends only outputs confirmed in an earlier block, pays at least
  2 sat/vB when all slots are P2WPKH, and has no output below ``DUST_SAT``;
- no planned transaction spends an output of a transaction ``by_payer``. A renderer may therefore
  leave that payment out, or make it with the payer's own wallet (``outputs[0]`` is the payment, the
  other output is change to an internal address of that wallet).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FUNDING_SLOT = 0
MATURITY_BLOCKS = 100
DUST_SAT = 1_000
BLOCK_INTERVAL_S = 600
_SUBSIDY_SAT = 5_000_000_000
_HALVING_BLOCKS = 150  # regtest


class Coin(NamedTuple):
    """The position of an output: its transaction and its index in it."""

    transaction: int
    vout: int


class PlannedOutput(NamedTuple):
    slot: int
    amount_sat: int


@dataclass(frozen=True, slots=True)
class PlannedTransaction:
    height: int  # of the block it confirms in
    inputs: tuple[Coin, ...]  # none: a coinbase
    outputs: tuple[PlannedOutput, ...]
    by_payer: bool = False


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    height: int
    transactions: range  # indices into Plan.transactions, the coinbase first


@dataclass(frozen=True, slots=True)
class Plan:
    blocks: tuple[PlannedBlock, ...]
    transactions: tuple[PlannedTransaction, ...]
    slots: int  # slots are 0 .. slots - 1
    payer_slot: int | None  # the address of the wallet that the demonstration pays from

    @property
    def tip(self) -> int:
        return self.blocks[-1].height

    def block_time(self, height: int, tip_time: int) -> int:
        """Returns the Unix time of a block if the last one is mined at ``tip_time``."""
        return tip_time - (self.tip - height) * BLOCK_INTERVAL_S


def subsidy_sat(height: int) -> int:
    """Returns the subsidy of a regtest block in sat."""
    return _SUBSIDY_SAT >> (height // _HALVING_BLOCKS)
