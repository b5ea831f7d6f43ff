"""The composition of the bitcoin service: the only module that constructs its parts."""

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
from mesh.data.database import open_database
from mesh.errors import FailedPrecondition, MeshError
from mesh.rpc.servicers import OutboxServicer
from mesh.runtime import StartError, open_runtime
from mesh.security.attestation import Attestor, Verifier
from mesh.security.keystore import Keystore, KeystoreError, MasterKey
from mesh.settings import ConfigError
from services.bitcoin.actors.chain import ChainActor
from services.bitcoin.actors.chain_messages import GetChainInfo, MineBlocks
from services.bitcoin.actors.wallet import FeePolicy, WalletActor, poll_pending_payments
from services.bitcoin.broadcaster import Broadcaster
from services.bitcoin.config import BitcoinConfig, MiningMode
from services.bitcoin.kernel import Kernel, KernelError
from services.bitcoin.keyring import Keyring
from services.bitcoin.miner import UNSPENDABLE_SCRIPT
from services.bitcoin.payments import PaymentSender
from services.bitcoin.recovery import Recovery
from services.bitcoin.servicers.analysis import AnalysisServicer
from services.bitcoin.servicers.chain import ChainServicer
from services.bitcoin.servicers.ownership import OwnershipServicer
from services.bitcoin.servicers.regtest import TIMEOUT_S, RegtestServicer
from services.bitcoin.servicers.wallet import WalletServicer
from services.bitcoin.store import SCHEMA
from services.bitcoin.store.block_log import BlockLog
from services.bitcoin.store.chain import ChainStore
from services.bitcoin.store.history import HistoryStore
from services.bitcoin.store.payment import PaymentStore
from services.bitcoin.store.wallet import WalletStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mesh.actor import ActorRef
    from mesh.data.database import Database
    from services.bitcoin.actors.chain_messages import ChainMessage
    from services.bitcoin.actors.wallet import WalletMessage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bitcoin:
    """The running service."""

    port: int
    health_port: int
    chain: ActorRef[ChainMessage]


@asynccontextmanager
async def bitcoin(config: BitcoinConfig) -> AsyncIterator[Bitcoin]:
    """Runs the service until the context exits. Raises StartError if its data cannot be used."""
    mempool_filled, chain_moved = asyncio.Event(), asyncio.Event()

    async with (
        open_runtime(config.mesh) as runtime,
        open_database(config.location, schema=SCHEMA) as database,
        open_chain(
            config, database, on_filled=mempool_filled.set, on_moved=chain_moved.set
        ) as chain,
        auto_mining(config, chain, mempool_filled),
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
            open_wallet(config, chain, payments, keyring, chain_moved) as wallet,
            runtime.serve(
                partial(add_ChainServiceServicer_to_server, ChainServicer(chain)),
                partial(add_RegtestServiceServicer_to_server, RegtestServicer(chain)),
                partial(add_AnalysisServiceServicer_to_server, analysis),
                partial(add_OwnershipServiceServicer_to_server, ownership),
                partial(
                    add_WalletServiceServicer_to_server,
                    WalletServicer(
                        sender=PaymentSender(wallet, payments),
                        verifier=verifier,
                        keyring=keyring,
                        wallets=wallets,
                        payments=payments,
                        network=network,
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
    on_filled: Callable[[], None],
    on_moved: Callable[[], None],
) -> AsyncIterator[ActorRef[ChainMessage]]:
    """Opens block log, kernel and index, recovers them, and starts the chain's actor."""
    block_log, store = BlockLog(database), ChainStore(database)
    kernel = Kernel(config.folder / "kernel")
    recovery = Recovery(kernel, block_log, store, truncate=config.truncate_block_log)
    with closing(kernel):
        try:
            await asyncio.to_thread(kernel.open)
            loaded = [await recovery.run()]
        except (FailedPrecondition, KernelError) as error:
            raise StartError(str(error)) from None

        async def build() -> ChainActor:
            if not loaded:  # a restart of the actor: its memory may be wrong
                await asyncio.to_thread(kernel.checkpoint)
                loaded.append(await recovery.run())
            return ChainActor(
                loaded.pop(),
                kernel=kernel,
                block_log=block_log,
                store=store,
                on_filled=on_filled,
                on_moved=on_moved,
                checkpoint_blocks=config.checkpoint_blocks,
            )

        async with spawn(build, name="chain") as chain:
            yield chain


@asynccontextmanager
async def auto_mining(
    config: BitcoinConfig, chain: ActorRef[ChainMessage], mempool_filled: asyncio.Event
) -> AsyncIterator[None]:
    """Mines a block soon after a transaction enters the mempool, if ANYA_MINE is auto."""
    if config.mining is not MiningMode.AUTO:
        yield
        return
    task = asyncio.create_task(
        _mine_when_filled(chain, mempool_filled, config.mining_delay_seconds), name="auto mining"
    )
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def open_keyring(config: BitcoinConfig, wallets: WalletStore) -> Keyring:
    """Opens the keyring. Raises ConfigError if the master key did not seal the store's wallets."""
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
    chain_moved: asyncio.Event,
) -> AsyncIterator[ActorRef[WalletMessage]]:
    """Starts the actor of payments, and polls open payments, those of earlier processes first."""

    async def build() -> WalletActor:
        return WalletActor(
            store=payments,
            chain=chain,
            keyring=keyring,
            network=Network(config.mesh.network),
            broadcaster=Broadcaster(payments, chain, final_depth=config.final_depth),
            fees=FeePolicy(feerate=config.feerate, max_fee_sat=config.max_fee_sat),
        )

    async with spawn(build, name="wallet") as wallet:
        polling = asyncio.create_task(
            poll_pending_payments(wallet, chain_moved, interval_s=config.poll_seconds),
            name="payment poll",
        )
        try:
            yield wallet
        finally:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling


async def _mine_when_filled(
    chain: ActorRef[ChainMessage], mempool_filled: asyncio.Event, delay_s: float
) -> None:
    while True:
        await mempool_filled.wait()
        mempool_filled.clear()
        try:
            if (await chain.ask(GetChainInfo())).mempool_size:
                await asyncio.sleep(delay_s)
                await chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT), timeout=TIMEOUT_S)
        except MeshError as error:
            log.warning("no block was mined: %s", error)


if __name__ == "__main__":
    sys.exit(process.run("bitcoin", BitcoinConfig.from_environment, bitcoin))
