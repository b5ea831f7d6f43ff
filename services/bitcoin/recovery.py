"""Bringing journal, kernel and index to one chain again, whatever stopped the process.

The journal is the truth: the kernel's files can be made from it, and the index follows the kernel.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from formats.bitcoin.hashes import display
from mesh.errors import FailedPrecondition, Reason
from services.bitcoin.chain import Chain
from services.bitcoin.kernel import BlockRejected
from services.bitcoin.store.block_log import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from formats.bitcoin.block import Block
    from formats.bitcoin.hashes import BlockHash
    from services.bitcoin.chain import HeaderRef
    from services.bitcoin.kernel import Kernel
    from services.bitcoin.store.block_log import BlockLog, Entry
    from services.bitcoin.store.chain import ChainStore

BATCH = 100  # blocks that the index follows in one transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReorgStep:
    """What the index just did: ``disconnected`` went, tip first, then ``connected`` came."""

    disconnected: tuple[BlockHash, ...]
    connected: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    kernel: Kernel
    journal: BlockLog
    store: ChainStore
    truncate: bool = False  # give up blocks of the chain that the journal can no longer tell

    async def run(self) -> Chain:
        """The active chain, known alike to all three.

        FailedPrecondition (BLOCK_LOG_CORRUPT) if blocks of the chain are lost; nothing is changed.
        """
        links = await self.store.links()
        sound, damaged = await self._check_journal()
        kept = _unbroken(links, sound)
        lost = [link.hash for link in links[kept:]]
        if lost and not self.truncate:
            raise FailedPrecondition(
                f"the journal lost block {display(lost[0])} at height {kept}, and with it"
                f" {len(lost)} blocks of the chain; restore the database from a backup, or start"
                f" once with ANYA_JOURNAL=truncate to go back to height {kept - 1}",
                reason=Reason.BLOCK_LOG_CORRUPT,
            )
        if damaged or lost:
            log.warning("journal: %d entries damaged, %d blocks lost", len(damaged), len(lost))
            await self.journal.remove([*damaged, *lost])
        indexed = {link.hash for link in links[:kept]}
        if await self._has_strangers(sound - set(lost)) or await self._replay(indexed):
            log.warning("the kernel's files do not fit the journal: making them anew")
            await asyncio.to_thread(self.kernel.wipe)
            if refusal := await self._replay(indexed):
                raise refusal
        chain = Chain(links)
        async for moved in follow(chain, self.kernel, self.journal, self.store):
            log.info("index: %d off, %d on", len(moved.disconnected), len(moved.connected))
        return chain

    async def _check_journal(self) -> tuple[set[BlockHash], list[BlockHash]]:
        """What the journal can tell, and what it can no longer tell."""
        sound: set[BlockHash] = set()
        damaged: list[BlockHash] = []
        async for page in self.journal.pages():
            for entry in page:
                if entry.block or await self._repair(entry):
                    sound.add(entry.hash)
                else:
                    damaged.append(entry.hash)
        return sound, damaged

    async def _repair(self, entry: Entry) -> bool:
        """The kernel may still have what the journal lost."""
        raw = await asyncio.to_thread(self.kernel.read, entry.hash)
        block = verify(raw, entry.hash) if raw is not None else None
        if block is None:
            return False
        await self.journal.restore(entry.sequence, block)
        log.warning("journal entry %d was damaged: restored from the kernel", entry.sequence)
        return True

    async def _has_strangers(self, hashes: set[BlockHash]) -> bool:
        """Whether the kernel's chain has blocks that this journal never saw."""
        links = await asyncio.to_thread(self.kernel.links)
        return any(link.hash not in hashes for link in links[1:])

    async def _replay(self, indexed: set[BlockHash]) -> BlockRejected | None:
        """Give the kernel what it lacks; the refusal of a block of the chain, if there was one.

        A block that was never indexed may have been written just before it was refused.
        """
        async for page in self.journal.pages():
            blocks = [entry.block for entry in page if entry.block]
            for refusal in await asyncio.to_thread(self._submit, blocks):
                if refusal.hash in indexed:
                    return refusal
                log.warning("dropped from the journal: %s", refusal)
                await self.journal.remove([refusal.hash])
        return None

    def _submit(self, blocks: list[Block]) -> list[BlockRejected]:
        refusals = []
        for block in blocks:
            try:
                if not self.kernel.knows(block.hash):
                    self.kernel.submit(block)
            except BlockRejected as refusal:
                refusals.append(refusal)
        return refusals


def _unbroken(links: Sequence[HeaderRef], sound: set[BlockHash]) -> int:
    """How many blocks from genesis on, which no journal holds, are there without a gap."""
    heights = (height for height, link in enumerate(links) if height and link.hash not in sound)
    return next(heights, len(links))


async def follow(
    chain: Chain, kernel: Kernel, journal: BlockLog, store: ChainStore
) -> AsyncIterator[ReorgStep]:
    """Move the index and ``chain`` to where the kernel is, and tell each step taken."""
    fork, links = await asyncio.to_thread(kernel.diverge, chain)
    gone = [chain[height].hash for height in range(chain.height, fork, -1)]
    while gone or links:
        batch, links = links[:BATCH], links[BATCH:]
        blocks = [await read_block(link.hash, kernel, journal) for link in batch]
        await store.follow(height=fork + 1, disconnected=gone, connected=blocks)
        for _ in gone:
            chain.disconnect()
        for link in batch:
            chain.connect(link)
        yield ReorgStep(tuple(gone), tuple(blocks))
        fork, gone = chain.height, []


async def read_block(hash: BlockHash, kernel: Kernel, journal: BlockLog) -> Block:
    """A block of the chain. Genesis is in no journal; the kernel was born with it."""
    if block := await journal.read(hash):
        return block
    raw = await asyncio.to_thread(kernel.read, hash)
    if raw is not None and (block := verify(raw, hash)):
        return block
    raise FailedPrecondition(
        f"block {display(hash)} cannot be read back: restart the service, which checks its journal",
        reason=Reason.BLOCK_LOG_CORRUPT,
    )
