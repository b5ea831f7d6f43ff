"""The journal: every block in the order in which the kernel gets it, on disk before it gets it.

The kernel forgets on a kill what it accepted since it was opened; the journal does not.
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
CREATE TABLE IF NOT EXISTS journal (
    sequence INTEGER PRIMARY KEY,
    hash     BLOB NOT NULL UNIQUE,
    raw      BLOB NOT NULL  -- the block, which its hash covers to the last byte
) STRICT;
"""

PAGE = 64  # blocks read at a time


@dataclass(frozen=True, slots=True)
class Entry:
    sequence: int
    hash: BlockHash
    block: Block | None  # None: the bytes are not those that were written


class BlockLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, blocks: Sequence[Block]) -> None:
        """Durable when it returns. A block that is there already stays where it is."""

        async def work(tx: Transaction) -> None:
            row = await tx.fetch_one("SELECT coalesce(max(sequence), 0) FROM journal")
            last = row[0] if row else 0
            await tx.execute_many(
                "INSERT INTO journal VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(last + 1 + i, block.hash, block.raw) for i, block in enumerate(blocks)],
            )

        await self._database.write(work)

    async def pages(self) -> AsyncIterator[list[Entry]]:
        """Everything, oldest first, each block held against its hash."""
        last = 0
        while rows := await self._page(last):
            yield [
                Entry(sequence, BlockHash(hash), verify(raw, BlockHash(hash)))
                for sequence, hash, raw in rows
            ]
            last = rows[-1][0]

    async def read(self, hash: BlockHash) -> Block | None:
        """One block; None if it is not there, or not as it was written."""

        async def work(tx: Transaction) -> bytes | None:
            row = await tx.fetch_one("SELECT raw FROM journal WHERE hash = ?", hash)
            return row[0] if row else None

        raw = await self._database.read(work)
        return verify(raw, hash) if raw is not None else None

    async def restore(self, sequence: int, block: Block) -> None:
        """Put the right bytes where wrong ones stand."""

        async def work(tx: Transaction) -> None:
            await tx.execute("UPDATE journal SET raw = ? WHERE sequence = ?", block.raw, sequence)

        await self._database.write(work)

    async def remove(self, hashes: Sequence[BlockHash]) -> None:
        """Take out blocks that the kernel refused, or that are not as they were written."""

        async def work(tx: Transaction) -> None:
            await tx.execute_many("DELETE FROM journal WHERE hash = ?", [(h,) for h in hashes])

        await self._database.write(work)

    async def _page(self, after: int) -> list[tuple[int, bytes, bytes]]:
        async def work(tx: Transaction) -> list[tuple[int, bytes, bytes]]:
            rows = await tx.fetch(
                "SELECT sequence, hash, raw FROM journal WHERE sequence > ?"
                " ORDER BY sequence LIMIT ?",
                after,
                PAGE,
            )
            return [(sequence, hash, raw) for sequence, hash, raw in rows]

        return await self._database.read(work)


def verify(raw: bytes, hash: BlockHash) -> Block | None:
    """The block with this hash, if ``raw`` is it: every byte is under its commitments."""
    try:
        block = parse_block(raw)
        check_commitments(block)
    except MalformedError:
        return None
    return block if block.hash == hash else None
