"""The block log: every block in the order of its arrival, on disk before the kernel gets it.

After a kill the kernel has lost the blocks of its last run; the block log has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from formats.bitcoin.block import check_commitments, parse_block
from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import BlockHash
from mesh.data import idempotency

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from formats.bitcoin.block import Block
    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey

SCHEMA = """
CREATE TABLE IF NOT EXISTS block_log (
    sequence INTEGER PRIMARY KEY,
    hash     BLOB NOT NULL UNIQUE,
    raw      BLOB NOT NULL  -- the block; its hash covers every byte
) STRICT;
"""

PAGE_BLOCKS = 64  # read at a time


@dataclass(frozen=True, slots=True)
class LogEntry:
    sequence: int
    hash: BlockHash
    block: Block | None  # None: the bytes are damaged


class BlockLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(
        self, blocks: Sequence[Block], *, key: IdempotencyKey | None = None, reply: bytes = b""
    ) -> None:
        """Appends blocks, and the reply to the request for them, durably in one transaction.

        A block that the log has keeps its entry.
        """

        async def work(tx: Transaction) -> None:
            if key is not None:
                await idempotency.forget_reply(tx, key)  # of an attempt whose blocks were rejected
                await idempotency.store_reply(tx, key, reply)
            row = await tx.fetch_one("SELECT coalesce(max(sequence), 0) FROM block_log")
            last = row[0] if row else 0
            await tx.execute_many(
                "INSERT INTO block_log VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(last + 1 + i, block.hash, block.raw) for i, block in enumerate(blocks)],
            )

        await self._database.write(work)

    async def first_reply(
        self, key: IdempotencyKey, blocks_of: Callable[[bytes], Sequence[BlockHash]]
    ) -> bytes | None:
        """Returns the stored reply to a request, or None if the log lacks a block that it names.

        Recovery removes blocks that the kernel rejects: the request had no effect then. Raises
        AlreadyExists (REQUEST_ID_REUSED) if the first request had another body.
        """

        async def work(tx: Transaction) -> bytes | None:
            reply = await idempotency.find_reply(tx, key)
            if reply is None:
                return None
            for hash in blocks_of(reply):
                if not await tx.fetch_one("SELECT 1 FROM block_log WHERE hash = ?", hash):
                    return None
            return reply

        return await self._database.read(work)

    async def pages(self) -> AsyncIterator[list[LogEntry]]:
        """Reads all entries, oldest first, and checks each block against its hash."""
        last = 0
        while rows := await self._page(last):
            yield [
                LogEntry(sequence, BlockHash(hash), verify(raw, BlockHash(hash)))
                for sequence, hash, raw in rows
            ]
            last = rows[-1][0]

    async def read(self, hash: BlockHash) -> Block | None:
        """Returns a block, or None if the log lacks it or its bytes are damaged."""

        async def work(tx: Transaction) -> bytes | None:
            row = await tx.fetch_one("SELECT raw FROM block_log WHERE hash = ?", hash)
            return row[0] if row else None

        raw = await self._database.read(work)
        return verify(raw, hash) if raw is not None else None

    async def restore(self, sequence: int, block: Block) -> None:
        """Replaces the damaged bytes of an entry."""

        async def work(tx: Transaction) -> None:
            await tx.execute("UPDATE block_log SET raw = ? WHERE sequence = ?", block.raw, sequence)

        await self._database.write(work)

    async def remove(
        self, hashes: Sequence[BlockHash], *, key: IdempotencyKey | None = None
    ) -> None:
        """Deletes entries: of blocks that the kernel rejected, and damaged ones.

        ``key``: of the request for the blocks, whose reply is deleted with them.
        """

        async def work(tx: Transaction) -> None:
            if key is not None:
                await idempotency.forget_reply(tx, key)
            await tx.execute_many("DELETE FROM block_log WHERE hash = ?", [(h,) for h in hashes])

        await self._database.write(work)

    async def _page(self, after: int) -> list[tuple[int, bytes, bytes]]:
        async def work(tx: Transaction) -> list[tuple[int, bytes, bytes]]:
            rows = await tx.fetch(
                "SELECT sequence, hash, raw FROM block_log WHERE sequence > ?"
                " ORDER BY sequence LIMIT ?",
                after,
                PAGE_BLOCKS,
            )
            return [(sequence, hash, raw) for sequence, hash, raw in rows]

        return await self._database.read(work)


def verify(raw: bytes, hash: BlockHash) -> Block | None:
    """Returns the block with this hash, or None if a byte of ``raw`` differs from it."""
    try:
        block = parse_block(raw)
        check_commitments(block)
    except MalformedError:
        return None
    return block if block.hash == hash else None
