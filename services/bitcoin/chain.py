"""The active chain as this service sees it: headers in order, and the rules that hang on them."""

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

COINBASE_MATURITY = 100  # blocks before a coinbase output may be spent
MEDIAN_TIME_SPAN = 11  # blocks whose times BIP 113 takes the median of
MAX_FUTURE_SECONDS = 2 * 60 * 60  # how far a block may be ahead of the clock
SUBSIDY_SAT = 50 * SAT_PER_BTC
REGTEST_HALVING_BLOCKS = 150


@dataclass(frozen=True, slots=True)
class HeaderRef:
    """One block of the active chain, without its content."""

    hash: BlockHash
    time: int  # Unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainInfo:
    network: Network
    height: int
    tip_hash: BlockHash
    tip_time: int  # Unix seconds
    mempool_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A transaction and where it is; no block: in the mempool."""

    txid: Txid
    raw: bytes
    confirmations: int  # 0 in the mempool, 1 in the tip
    block_height: int | None
    block_hash: BlockHash | None


@dataclass(frozen=True, slots=True)
class LocatedBlock:
    """A block of the active chain and where it is."""

    block: Block
    height: int
    confirmations: int  # 1 for the tip


@dataclass(frozen=True, slots=True)
class Coin:
    """An unspent output; height None: of a transaction in the mempool."""

    output: Output
    height: int | None
    is_coinbase: bool


@dataclass(frozen=True, slots=True)
class TxPosition:
    """Where an output stands among all others; whoever lists coins goes on from there."""

    height: int | None  # None: in the mempool, after all blocks
    position: int  # of its transaction in the block; in the mempool: in order of arrival
    vout: int


@dataclass(frozen=True, slots=True)
class Utxo:
    """A coin as a list shows it."""

    txid: Txid
    place: TxPosition
    amount_sat: int
    is_coinbase: bool


@dataclass(frozen=True, slots=True)
class UtxoPage:
    utxos: tuple[Utxo, ...]
    tip_height: int  # when they were listed


class Chain:
    """Genesis to tip."""

    def __init__(self, links: Iterable[HeaderRef]) -> None:
        self._links = list(links)

    @property
    def height(self) -> int:
        return len(self._links) - 1

    @property
    def tip(self) -> HeaderRef:
        return self._links[-1]

    def __getitem__(self, height: int) -> HeaderRef:
        """IndexError beyond the tip."""
        return self._links[height]

    def fork(self, height: int) -> Chain:
        """A copy that ends at ``height``."""
        return Chain(self._links[: height + 1])

    def connect(self, link: HeaderRef) -> None:
        self._links.append(link)

    def disconnect(self) -> HeaderRef:
        return self._links.pop()

    def median_time_past(self, height: int | None = None) -> int:
        """What the next block's time must exceed, seen from ``height`` (BIP 113)."""
        end = (self.height if height is None else height) + 1
        return median_time(link.time for link in self._links[max(0, end - MEDIAN_TIME_SPAN) : end])


def median_time(times: Iterable[int]) -> int:
    """The upper one of two in the middle, as consensus takes it near genesis."""
    return median_high(times)


def subsidy(height: int) -> int:
    """What a regtest coinbase may create, in sat."""
    halvings = height // REGTEST_HALVING_BLOCKS
    return SUBSIDY_SAT >> halvings if halvings < 64 else 0
