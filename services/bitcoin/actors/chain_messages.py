"""The messages that the chain's actor answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from formats.bitcoin.hashes import BlockHash, Txid
from mesh.actor import Message
from services.bitcoin.chain import ChainInfo, LocatedBlock, LocatedTransaction, UtxoPage
from services.bitcoin.extension import Mined, Reorganized
from services.bitcoin.mempool import Acceptance, MempoolTx

if TYPE_CHECKING:
    from mesh.data.idempotency import IdempotencyKey
    from services.bitcoin.chain import TxPosition


@dataclass(frozen=True, slots=True)
class GetChainInfo(Message[ChainInfo]):
    """Returns the network, the tip, and the number of transactions in the mempool."""


@dataclass(frozen=True, slots=True)
class FindTransaction(Message[LocatedTransaction]):
    """Finds a transaction. Raises NotFound if neither active chain nor mempool has it."""

    txid: Txid


@dataclass(frozen=True, slots=True)
class TestAccept(Message[Acceptance]):
    """Checks a transaction against the mempool's rules, without a change of the mempool.

    Raises InvalidArgument unless ``raw`` is exactly one transaction, and TransactionRejectedError
    with the broken rule. A transaction in the mempool is accepted again; a confirmed one breaks
    INPUTS_MISSING.
    """

    __test__ = False  # keeps pytest from collecting the class

    raw: bytes


@dataclass(frozen=True, slots=True)
class Broadcast(Message[Txid]):
    """Adds a transaction to the mempool; no effect if mempool or chain has it.

    Raises InvalidArgument and TransactionRejectedError as ``TestAccept`` does.
    """

    raw: bytes


@dataclass(frozen=True, slots=True)
class ListMempool(Message[tuple[MempoolTx, ...]]):
    """Returns the transactions in the mempool, parents before children."""


@dataclass(frozen=True, slots=True)
class GetBlock(Message[LocatedBlock]):
    """Returns a block of the active chain by hash or height. Raises NotFound if it has none."""

    wanted: BlockHash | int


@dataclass(frozen=True, slots=True)
class ListUtxos(Message[UtxoPage]):
    """Returns at most ``limit`` coins of one script after the position ``after``, oldest first.

    Coins that the mempool spends are left out; coins that it creates come last.
    """

    script_pubkey: bytes
    after: TxPosition | None
    limit: int


@dataclass(frozen=True, slots=True)
class MineBlocks(Message[Mined]):
    """Mines ``count`` blocks on the tip, whose coinbases pay ``script_pubkey``; regtest only.

    ``times`` has one Unix time for each block; if it is empty, the clock gives them. Raises
    InvalidArgument if the count is outside 1 to 1000, or a time breaks BIP 113 or is more than two
    hours ahead of the clock.
    """

    count: int
    script_pubkey: bytes
    times: tuple[int, ...] = ()
    key: IdempotencyKey | None = None  # a retry under the same key gets the first result


@dataclass(frozen=True, slots=True)
class ReorganizeChain(Message[Reorganized]):
    """Replaces the last ``depth`` blocks by ``depth + 1`` empty ones; regtest only.

    Raises InvalidArgument if the depth is outside 1 to 100, or beyond the chain.
    """

    depth: int
    key: IdempotencyKey | None = None  # a retry under the same key gets the first result


ChainMessage: TypeAlias = (
    GetChainInfo
    | FindTransaction
    | TestAccept
    | Broadcast
    | ListMempool
    | ListUtxos
    | GetBlock
    | MineBlocks
    | ReorganizeChain
)
