"""The bitcoin service, put together: the only place that constructs."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from anya.bitcoin.v1.chain_pb2_grpc import add_ChainServiceServicer_to_server
from anya.bitcoin.v1.regtest_pb2_grpc import add_RegtestServiceServicer_to_server
from anya.mesh.v1.outbox_pb2_grpc import add_OutboxServiceServicer_to_server
from mesh import inbox, outbox, process
from mesh.actor import spawn
from mesh.database import open_database
from mesh.errors import FailedPrecondition, MeshError
from mesh.runtime import StartError, open_runtime
from mesh.servicers import OutboxServicer
from services.bitcoin.actors import ChainActor, Info, MineBlocks
from services.bitcoin.config import BitcoinConfig, Mining
from services.bitcoin.kernel import Kernel, KernelFailed
from services.bitcoin.miner import NOBODY
from services.bitcoin.recovery import Recovery
from services.bitcoin.servicers.chain import ChainServicer
from services.bitcoin.servicers.regtest import TIMEOUT, RegtestServicer
from services.bitcoin.store import chain as chain_store
from services.bitcoin.store import journal as journal_store
from services.bitcoin.store.chain import ChainStore
from services.bitcoin.store.journal import Journal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mesh.actor import ActorRef
    from mesh.database import Database
    from services.bitcoin.actors import ChainMessage

SCHEMA = inbox.SCHEMA + outbox.SCHEMA + journal_store.SCHEMA + chain_store.SCHEMA

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bitcoin:
    """The running service."""

    port: int
    health_port: int
    chain: ActorRef[ChainMessage]


@asynccontextmanager
async def bitcoin(config: BitcoinConfig) -> AsyncIterator[Bitcoin]:
    """Run the service for the duration of the block. StartError if its data is not fit to use."""
    moved = asyncio.Event()
    async with (
        open_runtime(config.mesh) as runtime,
        open_database(config.location, schema=SCHEMA) as database,
        open_chain(config, database, changed=moved.set) as chain,
        auto_mining(config, chain, moved),
        runtime.serve(
            partial(add_ChainServiceServicer_to_server, ChainServicer(chain)),
            partial(add_RegtestServiceServicer_to_server, RegtestServicer(chain)),
            partial(
                add_OutboxServiceServicer_to_server, OutboxServicer(database, service="bitcoin")
            ),
        ) as ports,
    ):
        yield Bitcoin(ports.port, ports.health_port, chain)


@asynccontextmanager
async def open_chain(
    config: BitcoinConfig, database: Database, *, changed: Callable[[], None]
) -> AsyncIterator[ActorRef[ChainMessage]]:
    """The chain's actor over kernel, journal and index, which agree before anybody may ask it."""
    journal, store = Journal(database), ChainStore(database)
    kernel = Kernel(config.folder / "kernel")
    recovery = Recovery(kernel, journal, store, truncate=config.truncate_journal)
    with closing(kernel):
        try:
            await asyncio.to_thread(kernel.open)
            loaded = [await recovery.run()]
        except (FailedPrecondition, KernelFailed) as error:
            raise StartError(str(error)) from None

        async def build() -> ChainActor:
            if not loaded:  # after a break nothing in memory can be trusted
                await asyncio.to_thread(kernel.checkpoint)
                loaded.append(await recovery.run())
            return ChainActor(
                loaded.pop(),
                kernel=kernel,
                journal=journal,
                store=store,
                changed=changed,
                checkpoint_blocks=config.checkpoint_blocks,
            )

        async with spawn(build, name="chain") as chain:
            yield chain


@asynccontextmanager
async def auto_mining(
    config: BitcoinConfig, chain: ActorRef[ChainMessage], moved: asyncio.Event
) -> AsyncIterator[None]:
    """Mine a block soon after a transaction arrives, if the settings say so."""
    if config.mining is not Mining.AUTO:
        yield
        return
    task = asyncio.create_task(
        _mine_when_filled(chain, moved, config.mining_delay), name="auto mining"
    )
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _mine_when_filled(
    chain: ActorRef[ChainMessage], moved: asyncio.Event, delay: float
) -> None:
    while True:
        await moved.wait()
        moved.clear()
        try:
            if (await chain.ask(Info())).mempool_size:
                await asyncio.sleep(delay)
                await chain.ask(MineBlocks(1, NOBODY), timeout=TIMEOUT)
        except MeshError as error:
            log.warning("no block was mined: %s", error)


if __name__ == "__main__":
    sys.exit(process.run("bitcoin", BitcoinConfig.from_environment, bitcoin))
