"""What may be asked of the chain and the mempool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from mesh.actor import Message
from services.bitcoin.chain import ChainInfo, Located, Utxo
from services.bitcoin.hashes import BlockHash, Txid
from services.bitcoin.mempool import Acceptance, Candidate


@dataclass(frozen=True, slots=True)
class Info(Message[ChainInfo]):
    """The network, the tip, and how many transactions wait."""


@dataclass(frozen=True, slots=True)
class FindTransaction(Message[Located]):
    """Where a transaction is; NotFound if neither in the active chain nor in the mempool."""

    txid: Txid


@dataclass(frozen=True, slots=True)
class TestAccept(Message[Acceptance]):
    """What the mempool would say to a transaction; it stays as it is.

    InvalidArgument unless ``raw`` is exactly one transaction; TransactionRejected with the rule.
    One that is in the mempool already is accepted again; one in the chain breaks INPUTS_MISSING.
    """

    __test__ = False  # not a test, though its name begins like one

    raw: bytes


@dataclass(frozen=True, slots=True)
class Broadcast(Message[Txid]):
    """Put a transaction into the mempool; without effect if it is there or in the chain already.

    InvalidArgument and TransactionRejected as ``TestAccept``.
    """

    raw: bytes


@dataclass(frozen=True, slots=True)
class ListMempool(Message[tuple[Candidate, ...]]):
    """What waits for a block, parents before children."""


@dataclass(frozen=True, slots=True)
class ListUtxos(Message[tuple[Utxo, ...]]):
    """At most ``limit`` coins of one script after the coin ``after``, oldest first.

    What a waiting transaction spends is left out; what one creates comes last.
    """

    script_pubkey: bytes
    after: Utxo | None
    limit: int


@dataclass(frozen=True, slots=True)
class Mined:
    hashes: tuple[BlockHash, ...]
    height: int


@dataclass(frozen=True, slots=True)
class MineBlocks(Message[Mined]):
    """Mine ``count`` blocks on the tip that pay ``script_pubkey``; regtest only.

    ``times`` has one Unix time per block, or is empty: then each block takes the time of mining.
    InvalidArgument for times that break BIP 113 or lie more than two hours ahead.
    """

    count: int
    script_pubkey: bytes
    times: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reorganized:
    disconnected: tuple[BlockHash, ...]  # tip first
    connected: tuple[BlockHash, ...]
    height: int


@dataclass(frozen=True, slots=True)
class ReorganizeChain(Message[Reorganized]):
    """Replace the last ``depth`` blocks by ``depth + 1`` empty ones; regtest only.

    InvalidArgument unless that many blocks stand above genesis.
    """

    depth: int


ChainMessage: TypeAlias = (
    Info
    | FindTransaction
    | TestAccept
    | Broadcast
    | ListMempool
    | ListUtxos
    | MineBlocks
    | ReorganizeChain
)
