"""Recovery: brings block log, kernel and index to the same chain after any kind of stop.

The block log is authoritative: the kernel's files are rebuilt from it, and the index follows the
kernel.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from formats.bitcoin.hashes import display
from mesh.errors import FailedPrecondition, Reason
from services.bitcoin.chain import Chain
from services.bitcoin.kernel import BlockRejectedError
from services.bitcoin.store.block_log import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from formats.bitcoin.block import Block
    from formats.bitcoin.hashes import BlockHash
    from services.bitcoin.chain import HeaderRef
    from services.bitcoin.kernel import Kernel
    from services.bitcoin.store.block_log import BlockLog, LogEntry
    from services.bitcoin.store.chain import ChainStore

BATCH_BLOCKS = 100  # that the index connects in one transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReorgStep:
    """One move of the index: blocks disconnected, tip first, then blocks connected."""

    disconnected: tuple[BlockHash, ...]
    connected: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    kernel: Kernel
    block_log: BlockLog
    store: ChainStore
    truncate: bool = False  # drop blocks of the chain that the block log has lost

    async def run(self) -> Chain:
        """Returns the active chain, on which block log, kernel and index then agree.

        Raises FailedPrecondition (BLOCK_LOG_DAMAGED), and changes nothing, if the block log has
        lost blocks of the chain and ``truncate`` is not set.
        """
        headers = await self.store.headers()
        intact, damaged = await self._check_log()
        kept = _unbroken(headers, intact)
        lost = [header.hash for header in headers[kept:]]
        if lost and not self.truncate:
            raise FailedPrecondition(
                f"the block log has lost block {display(lost[0])} at height {kept}, and with it"
                f" {len(lost)} blocks of the chain; restore the database from a backup, or start"
                f" once with ANYA_BLOCK_LOG=truncate to go back to height {kept - 1}",
                reason=Reason.BLOCK_LOG_DAMAGED,
            )
        if damaged or lost:
            log.warning("block log: %d entries damaged, %d blocks lost", len(damaged), len(lost))
            await self.block_log.remove([*damaged, *lost])
        indexed = {header.hash for header in headers[:kept]}
        if await self._has_unlogged(intact - set(lost)) or await self._replay(indexed):
            log.warning("the kernel's files do not match the block log: rebuilding them")
            await asyncio.to_thread(self.kernel.wipe)
            if rejection := await self._replay(indexed):
                raise rejection
        chain = Chain(headers)
        async for step in follow(chain, self.kernel, self.block_log, self.store):
            log.info(
                "index: %d disconnected, %d connected", len(step.disconnected), len(step.connected)
            )
        return chain

    async def _check_log(self) -> tuple[set[BlockHash], list[BlockHash]]:
        """Returns the hashes of intact and of damaged entries; repairs entries if it can."""
        intact: set[BlockHash] = set()
        damaged: list[BlockHash] = []
        async for page in self.block_log.pages():
            for entry in page:
                if entry.block or await self._repair(entry):
                    intact.add(entry.hash)
                else:
                    damaged.append(entry.hash)
        return intact, damaged

    async def _repair(self, entry: LogEntry) -> bool:
        """Restores a damaged entry from the kernel's own copy, if the kernel has one."""
        raw = await asyncio.to_thread(self.kernel.read, entry.hash)
        block = verify(raw, entry.hash) if raw is not None else None
        if block is None:
            return False
        await self.block_log.restore(entry.sequence, block)
        log.warning("block log entry %d was damaged: restored from the kernel", entry.sequence)
        return True

    async def _has_unlogged(self, logged: set[BlockHash]) -> bool:
        """Returns whether the kernel's chain has a block that the block log lacks."""
        headers = await asyncio.to_thread(self.kernel.headers)
        return any(header.hash not in logged for header in headers[1:])

    async def _replay(self, indexed: set[BlockHash]) -> BlockRejectedError | None:
        """Submits to the kernel the blocks that it lacks.

        Returns the rejection of an indexed block, if there is one. A rejected block that was never
        indexed is removed: the process stopped between its append and its rejection.
        """
        async for page in self.block_log.pages():
            blocks = [entry.block for entry in page if entry.block]
            for rejection in await asyncio.to_thread(self._submit, blocks):
                if rejection.hash in indexed:
                    return rejection
                log.warning("removed from the block log: %s", rejection)
                await self.block_log.remove([rejection.hash])
        return None

    def _submit(self, blocks: list[Block]) -> list[BlockRejectedError]:
        rejections = []
        for block in blocks:
            try:
                if not self.kernel.knows(block.hash):
                    self.kernel.submit(block)
            except BlockRejectedError as rejection:
                rejections.append(rejection)
        return rejections


def _unbroken(headers: Sequence[HeaderRef], intact: set[BlockHash]) -> int:
    """Returns the number of blocks without a gap; genesis, which no log holds, counts."""
    gaps = (height for height, header in enumerate(headers) if height and header.hash not in intact)
    return next(gaps, len(headers))


async def follow(
    chain: Chain, kernel: Kernel, block_log: BlockLog, store: ChainStore
) -> AsyncIterator[ReorgStep]:
    """Moves the index and ``chain`` to the kernel's chain; yields each step after its commit."""
    fork, headers = await asyncio.to_thread(kernel.diverge, chain)
    gone = [chain[height].hash for height in range(chain.height, fork, -1)]
    while gone or headers:
        batch, headers = headers[:BATCH_BLOCKS], headers[BATCH_BLOCKS:]
        blocks = [await read_block(header.hash, kernel, block_log) for header in batch]
        await store.follow(height=fork + 1, disconnected=gone, connected=blocks)
        for _ in gone:
            chain.disconnect()
        for header in batch:
            chain.connect(header)
        yield ReorgStep(tuple(gone), tuple(blocks))
        fork, gone = chain.height, []


async def read_block(hash: BlockHash, kernel: Kernel, block_log: BlockLog) -> Block:
    """Returns a block of the chain: from the block log, or genesis from the kernel.

    Raises FailedPrecondition (BLOCK_LOG_DAMAGED) if neither has its bytes.
    """
    if block := await block_log.read(hash):
        return block
    raw = await asyncio.to_thread(kernel.read, hash)
    if raw is not None and (block := verify(raw, hash)):
        return block
    raise FailedPrecondition(
        f"block {display(hash)} cannot be read back: restart the service, which checks its block"
        " log",
        reason=Reason.BLOCK_LOG_DAMAGED,
    )
