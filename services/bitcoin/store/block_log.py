"""The block log: every block in the order of its arrival, on disk before the kernel gets it.

After a kill the kernel has lost the blocks of its last run; the block log has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from formats.bitcoin.block import check_commitments, parse_block
from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import BlockHash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from formats.bitcoin.block import Block
    from mesh.data.database import Database, Transaction

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

    async def append(self, blocks: Sequence[Block]) -> None:
        """Appends blocks durably. A block that the log has keeps its entry."""

        async def work(tx: Transaction) -> None:
            row = await tx.fetch_one("SELECT coalesce(max(sequence), 0) FROM block_log")
            last = row[0] if row else 0
            await tx.execute_many(
                "INSERT INTO block_log VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(last + 1 + i, block.hash, block.raw) for i, block in enumerate(blocks)],
            )

        await self._database.write(work)

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

    async def remove(self, hashes: Sequence[BlockHash]) -> None:
        """Deletes entries: of blocks that the kernel rejected, and damaged ones."""

        async def work(tx: Transaction) -> None:
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
