"""The active chain: its headers in order, positions on it, and the rules that depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_high
from typing import TYPE_CHECKING

from formats.money import SAT_PER_BTC

if TYPE_CHECKING:
    from collections.abc import Iterable

    from formats.bitcoin.block import Block
    from formats.bitcoin.hashes import BlockHash, Txid
    from formats.bitcoin.network import Network
    from formats.bitcoin.transaction import Output

COINBASE_MATURITY_BLOCKS = 100  # depth at which consensus lets a coinbase output be spent
MEDIAN_TIME_BLOCKS = 11  # BIP 113
MAX_FUTURE_S = 2 * 60 * 60  # consensus: a block may be so far ahead of the clock
SUBSIDY_SAT = 50 * SAT_PER_BTC
REGTEST_HALVING_BLOCKS = 150


@dataclass(frozen=True, slots=True)
class HeaderRef:
    """A block of the active chain, without its content."""

    hash: BlockHash
    time: int  # Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainInfo:
    network: Network
    height: int
    tip_hash: BlockHash
    tip_time: int  # Unix seconds
    mempool_size: int  # transactions


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedTransaction:
    """A transaction, and its block; without a block it is in the mempool."""

    txid: Txid
    raw: bytes
    confirmations: int  # 0 in the mempool, 1 in the tip
    block_height: int | None
    block_hash: BlockHash | None


@dataclass(frozen=True, slots=True)
class LocatedBlock:
    """A block of the active chain, and its height."""

    block: Block
    height: int
    confirmations: int  # 1 for the tip


@dataclass(frozen=True, slots=True)
class Coin:
    """An unspent output."""

    output: Output
    height: int | None  # None: its transaction is in the mempool
    is_coinbase: bool


@dataclass(frozen=True, slots=True)
class TxPosition:
    """The position of an output in the order of a list of coins."""

    height: int | None  # None: in the mempool, after all blocks
    index: int  # of its transaction in the block, or in the mempool's order of arrival
    vout: int


@dataclass(frozen=True, slots=True)
class Utxo:
    """An unspent output in a list of coins."""

    txid: Txid
    position: TxPosition
    amount_sat: int
    is_coinbase: bool


@dataclass(frozen=True, slots=True)
class UtxoPage:
    utxos: tuple[Utxo, ...]
    tip_height: int  # of the chain that the page was read from


class Chain:
    """The headers from genesis to the tip."""

    def __init__(self, headers: Iterable[HeaderRef]) -> None:
        self._headers = list(headers)

    @property
    def height(self) -> int:
        return len(self._headers) - 1

    @property
    def tip(self) -> HeaderRef:
        return self._headers[-1]

    def __getitem__(self, height: int) -> HeaderRef:
        """Returns the block at ``height``. Raises IndexError beyond the tip."""
        return self._headers[height]

    def fork(self, height: int) -> Chain:
        """Returns a copy that ends at ``height``."""
        return Chain(self._headers[: height + 1])

    def connect(self, header: HeaderRef) -> None:
        self._headers.append(header)

    def disconnect(self) -> HeaderRef:
        return self._headers.pop()

    def median_time_past(self, height: int | None = None) -> int:
        """Returns the Unix time that the block after ``height`` must exceed (BIP 113).

        Without ``height``: the block after the tip.
        """
        end = (self.height if height is None else height) + 1
        return median_time(
            header.time for header in self._headers[max(0, end - MEDIAN_TIME_BLOCKS) : end]
        )


def median_time(times: Iterable[int]) -> int:
    """Returns the median; of an even number of times the upper one, as consensus does."""
    return median_high(times)


def subsidy(height: int) -> int:
    """Returns the satoshis that a regtest coinbase may create, without fees."""
    halvings = height // REGTEST_HALVING_BLOCKS
    return SUBSIDY_SAT >> halvings if halvings < 64 else 0
