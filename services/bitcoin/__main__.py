"""The bitcoin service, put together: the only place that constructs."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from anya.bitcoin.v1.analysis_pb2_grpc import add_AnalysisServiceServicer_to_server
from anya.bitcoin.v1.chain_pb2_grpc import add_ChainServiceServicer_to_server
from anya.bitcoin.v1.ownership_pb2_grpc import add_OwnershipServiceServicer_to_server
from anya.bitcoin.v1.regtest_pb2_grpc import add_RegtestServiceServicer_to_server
from anya.bitcoin.v1.wallet_pb2_grpc import add_WalletServiceServicer_to_server
from anya.mesh.v1.outbox_pb2_grpc import add_OutboxServiceServicer_to_server
from formats.bitcoin.network import Network
from mesh import process
from mesh.actor import spawn
from mesh.config import ConfigError
from mesh.data import idempotency, outbox
from mesh.data.database import open_database
from mesh.errors import FailedPrecondition, MeshError
from mesh.rpc.servicers import OutboxServicer
from mesh.runtime import StartError, open_runtime
from mesh.security.attestation import Attestor, Verifier
from mesh.security.keystore import Keystore, KeystoreError, MasterKey
from services.bitcoin.actors.chain import ChainActor, Info, MineBlocks
from services.bitcoin.actors.wallet import Fees, Spender, WalletActor, poll_pending_payments
from services.bitcoin.broadcaster import Broadcaster
from services.bitcoin.config import BitcoinConfig, Mining
from services.bitcoin.kernel import Kernel, KernelFailed
from services.bitcoin.keyring import Keyring
from services.bitcoin.miner import NOBODY
from services.bitcoin.recovery import Recovery
from services.bitcoin.servicers.analysis import AnalysisServicer
from services.bitcoin.servicers.chain import ChainServicer
from services.bitcoin.servicers.ownership import OwnershipServicer
from services.bitcoin.servicers.regtest import TIMEOUT, RegtestServicer
from services.bitcoin.servicers.wallet import WalletServicer
from services.bitcoin.store import block_log as journal_store
from services.bitcoin.store import budget, reservation
from services.bitcoin.store import chain as chain_store
from services.bitcoin.store import payment as payment_store
from services.bitcoin.store import wallet as wallet_store
from services.bitcoin.store.block_log import BlockLog
from services.bitcoin.store.chain import ChainStore
from services.bitcoin.store.history import HistoryStore
from services.bitcoin.store.payment import PaymentStore
from services.bitcoin.store.wallet import WalletStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mesh.actor import ActorRef
    from mesh.data.database import Database
    from services.bitcoin.actors.chain import ChainMessage
    from services.bitcoin.actors.wallet import WalletMessage

SCHEMA = "".join(
    part.SCHEMA
    for part in (
        idempotency,
        outbox,
        journal_store,
        chain_store,
        wallet_store,
        payment_store,
        budget,
        reservation,
    )
)

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
    filled, stirred = asyncio.Event(), asyncio.Event()

    async with (
        open_runtime(config.mesh) as runtime,
        open_database(config.location, schema=SCHEMA) as database,
        open_chain(config, database, filled=filled.set, moved=stirred.set) as chain,
        auto_mining(config, chain, filled),
    ):
        network = Network(config.mesh.network)
        attestor = Attestor(config.mesh.identity, lifetime=config.mesh.proof_seconds)
        verifier = Verifier(config.mesh.identity.ca, config.mesh.trust_domain)
        wallets = WalletStore(database)
        payments = PaymentStore(database, final_depth=config.final_depth)
        keyring = await open_keyring(config, wallets)
        analysis = AnalysisServicer(
            histories=HistoryStore(database),
            chain=chain,
            attestor=attestor,
            verifier=verifier,
            network=network,
        )
        ownership = OwnershipServicer(
            chain=chain, keyring=keyring, attestor=attestor, network=network
        )
        async with (
            open_wallet(config, chain, payments, keyring, stirred) as wallet,
            runtime.serve(
                partial(add_ChainServiceServicer_to_server, ChainServicer(chain)),
                partial(add_RegtestServiceServicer_to_server, RegtestServicer(chain)),
                partial(add_AnalysisServiceServicer_to_server, analysis),
                partial(add_OwnershipServiceServicer_to_server, ownership),
                partial(
                    add_WalletServiceServicer_to_server,
                    WalletServicer(
                        Spender(wallet, payments, verifier), keyring, wallets, payments, network
                    ),
                ),
                partial(
                    add_OutboxServiceServicer_to_server, OutboxServicer(database, service="bitcoin")
                ),
            ) as ports,
        ):
            yield Bitcoin(ports.port, ports.health_port, chain)


@asynccontextmanager
async def open_chain(
    config: BitcoinConfig,
    database: Database,
    *,
    filled: Callable[[], None],
    moved: Callable[[], None],
) -> AsyncIterator[ActorRef[ChainMessage]]:
    """The chain's actor over kernel, journal and index, which agree before anybody may ask it."""
    journal, store = BlockLog(database), ChainStore(database)
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
                filled=filled,
                moved=moved,
                checkpoint_blocks=config.checkpoint_blocks,
            )

        async with spawn(build, name="chain") as chain:
            yield chain


@asynccontextmanager
async def auto_mining(
    config: BitcoinConfig, chain: ActorRef[ChainMessage], filled: asyncio.Event
) -> AsyncIterator[None]:
    """Mine a block soon after a transaction arrives, if the settings say so."""
    if config.mining is not Mining.AUTO:
        yield
        return
    task = asyncio.create_task(
        _mine_when_filled(chain, filled, config.mining_delay), name="auto mining"
    )
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def open_keyring(config: BitcoinConfig, wallets: WalletStore) -> Keyring:
    """ConfigError if the master key is not the one that sealed this store's wallets."""
    keystore = Keystore(MasterKey.from_file(config.master_key))
    keyring = Keyring(wallets, keystore, Network(config.mesh.network))
    try:
        await keyring.check()
    except KeystoreError as error:
        raise ConfigError(
            f"ANYA_MASTER_KEY_FILE {config.master_key} is not the key of this store: {error}"
        ) from None
    return keyring


@asynccontextmanager
async def open_wallet(
    config: BitcoinConfig,
    chain: ActorRef[ChainMessage],
    payments: PaymentStore,
    keyring: Keyring,
    stirred: asyncio.Event,
) -> AsyncIterator[ActorRef[WalletMessage]]:
    """The actor of payments. It looks after those of an earlier process first."""

    async def build() -> WalletActor:
        return WalletActor(
            store=payments,
            chain=chain,
            keyring=keyring,
            network=Network(config.mesh.network),
            broadcaster=Broadcaster(payments, chain, final_depth=config.final_depth),
            fees=Fees(feerate=config.feerate, max_fee_sat=config.max_fee_sat),
        )

    async with spawn(build, name="wallet") as wallet:
        sweeping = asyncio.create_task(
            poll_pending_payments(wallet, stirred, at_least_every=config.sweep_seconds),
            name="payment sweeps",
        )
        try:
            yield wallet
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping


async def _mine_when_filled(
    chain: ActorRef[ChainMessage], filled: asyncio.Event, delay: float
) -> None:
    while True:
        await filled.wait()
        filled.clear()
        try:
            if (await chain.ask(Info())).mempool_size:
                await asyncio.sleep(delay)
                await chain.ask(MineBlocks(1, NOBODY), timeout=TIMEOUT)
        except MeshError as error:
            log.warning("no block was mined: %s", error)


if __name__ == "__main__":
    sys.exit(process.run("bitcoin", BitcoinConfig.from_environment, bitcoin))
