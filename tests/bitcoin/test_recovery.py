"""Recovery from lost or damaged data: the chain is complete again, or the start fails."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mesh import failpoint
from mesh.errors import Unavailable
from mesh.runtime import StartError
from services.bitcoin import miner
from services.bitcoin.__main__ import bitcoin
from services.bitcoin.actors.chain_messages import (
    GetBlock,
    GetChainInfo,
    MineBlocks,
    ReorganizeChain,
)
from services.bitcoin.chain import SUBSIDY_SAT
from services.bitcoin.kernel import BlockRejectedError, Kernel
from services.bitcoin.miner import UNSPENDABLE_SCRIPT

if TYPE_CHECKING:
    from pathlib import Path

    from services.bitcoin.chain import ChainInfo
    from services.bitcoin.config import BitcoinConfig


async def mine(config: BitcoinConfig, count: int = 5) -> ChainInfo:
    """Runs the service, mines, and stops it cleanly."""
    async with bitcoin(config) as service:
        await service.chain.ask(MineBlocks(count, UNSPENDABLE_SCRIPT))
        return await service.chain.ask(GetChainInfo())


async def info(config: BitcoinConfig) -> ChainInfo:
    async with bitcoin(config) as service:
        return await service.chain.ask(GetChainInfo())


def kernel_folder(config: BitcoinConfig) -> Path:
    return config.folder / "kernel"


def lose_kernel(config: BitcoinConfig) -> None:
    shutil.rmtree(kernel_folder(config))


def change(config: BitcoinConfig, sql: str) -> None:
    with closing(sqlite3.connect(config.location)) as connection, connection:
        connection.execute(sql)


def events(config: BitcoinConfig) -> list[str]:
    with closing(sqlite3.connect(config.location)) as connection:
        return [type for (type,) in connection.execute("SELECT type FROM outbox ORDER BY sequence")]


# Each damages the last of five blocks.
DAMAGES = {
    "cut off": "UPDATE block_log SET raw = substr(raw, 1, 100) WHERE sequence = 5",
    "one byte": "UPDATE block_log SET raw = CAST(substr(raw, 1, 120) || x'00' || substr(raw, 122)"
    " AS BLOB) WHERE sequence = 5",
    "another hash": "UPDATE block_log SET hash = zeroblob(32) WHERE sequence = 5",
    "gone": "DELETE FROM block_log WHERE sequence = 5",
}


async def test_clean_restart_restores_the_chain(config: BitcoinConfig) -> None:
    before = await mine(config)

    assert await info(config) == before


async def test_lost_kernel_is_rebuilt_from_the_block_log(config: BitcoinConfig) -> None:
    await mine(config)
    async with bitcoin(config) as service:
        await service.chain.ask(ReorganizeChain(2))
    before = await mine(config, 1)

    lose_kernel(config)

    assert await info(config) == before


async def test_damaged_kernel_files_are_rebuilt_from_the_block_log(
    config: BitcoinConfig,
) -> None:
    before = await mine(config)

    for path in (kernel_folder(config) / "state" / "chainstate").glob("MANIFEST*"):
        path.write_bytes(b"damaged")

    assert await info(config) == before


async def test_kernel_with_an_unlogged_block_is_rebuilt(config: BitcoinConfig) -> None:
    before = await mine(config, 3)
    lose_kernel(config)
    kernel = Kernel(kernel_folder(config))
    with closing(kernel):
        kernel.open()
        genesis = kernel.headers()[0]
        stranger = miner.mine(
            height=1,
            prev_hash=genesis.hash,
            time=genesis.time + 1,
            script_pubkey=UNSPENDABLE_SCRIPT,
        )
        kernel.submit(stranger)

    assert await info(config) == before


@pytest.mark.parametrize("damage", ["cut off", "one byte"])
async def test_damaged_block_log_entry_is_restored_from_the_kernel(
    config: BitcoinConfig, damage: str
) -> None:
    before = await mine(config)
    change(config, DAMAGES[damage])

    assert await info(config) == before
    lose_kernel(config)
    assert await info(config) == before


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_lost_block_prevents_the_start(config: BitcoinConfig, damage: str) -> None:
    await mine(config)
    before = events(config)
    lose_kernel(config)
    change(config, damage)

    with pytest.raises(StartError, match=r"at height 5.*ANYA_BLOCK_LOG=truncate.*height 4"):
        await info(config)

    assert events(config) == before


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_truncation_returns_to_the_last_intact_block(
    config: BitcoinConfig, damage: str
) -> None:
    await mine(config)
    lose_kernel(config)
    change(config, damage)

    after = await info(replace(config, truncate_block_log=True))

    assert after.height == 4
    assert events(config)[-1] == "bitcoin.block.disconnected"
    assert (await mine(config, 2)).height == 6


async def test_blocks_above_a_lost_block_are_dropped(config: BitcoinConfig) -> None:
    await mine(config)
    lose_kernel(config)
    change(config, "UPDATE block_log SET raw = x'00' WHERE sequence = 3")

    with pytest.raises(StartError, match=r"at height 3, and with it 3 blocks"):
        await info(config)
    after = await info(replace(config, truncate_block_log=True))

    assert after.height == 2
    assert (await mine(config, 1)).height == 3


async def test_damaged_entry_of_a_stale_branch_loses_no_block(config: BitcoinConfig) -> None:
    await mine(config)
    async with bitcoin(config) as service:
        await service.chain.ask(ReorganizeChain(1))
        before = await service.chain.ask(GetChainInfo())
    lose_kernel(config)
    change(config, "UPDATE block_log SET raw = x'00' WHERE sequence = 5")

    assert await info(config) == before


async def test_block_that_the_kernel_rejects_is_removed_from_the_block_log(
    config: BitcoinConfig,
) -> None:
    before = await mine(config)
    change(
        config,
        "INSERT INTO block_log SELECT sequence + 1, zeroblob(32), x'00' FROM block_log"
        " ORDER BY sequence DESC LIMIT 1",
    )

    assert await info(config) == before
    assert (await mine(config, 1)).height == before.height + 1


async def test_index_behind_the_kernel_catches_up(config: BitcoinConfig) -> None:
    before = await mine(config)
    change(config, "DELETE FROM tx WHERE height > 3")
    change(config, "DELETE FROM txo WHERE height > 3")
    change(config, "DELETE FROM block WHERE height > 3")

    assert await info(config) == before
    assert events(config)[-2:] == ["bitcoin.block.connected"] * 2


@pytest.mark.parametrize("moment", ["logged", "accepted", "indexed"])
async def test_actor_that_fails_half_way_restarts_with_the_block(
    config: BitcoinConfig, moment: str
) -> None:
    async with bitcoin(config) as service:
        await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))
        failpoint.arm(f"bitcoin.block.{moment}=error", network="regtest")

        with pytest.raises(Unavailable, match="chain failed on this message"):
            await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))

        assert (await service.chain.ask(GetChainInfo())).height == 2
        assert (await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))).height == 3


async def test_block_that_consensus_rejects_is_not_stored(
    config: BitcoinConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bitcoin(config) as service:
        await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))
        with monkeypatch.context() as greed:
            greed.setattr(miner, "subsidy", lambda height: SUBSIDY_SAT + 1)
            with pytest.raises(BlockRejectedError, match="bad-cb-amount"):
                await service.chain.ask(MineBlocks(2, UNSPENDABLE_SCRIPT))

        assert (await service.chain.ask(GetChainInfo())).height == 1
        assert (await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))).height == 2

    with closing(sqlite3.connect(config.location)) as connection:
        assert connection.execute("SELECT count(*) FROM block_log").fetchone() == (2,)


async def test_second_process_on_the_same_chain_is_refused(config: BitcoinConfig) -> None:
    async with bitcoin(config):
        with pytest.raises(StartError, match="another process"):
            await info(config)


async def test_checkpoints_keep_the_chain(config: BitcoinConfig) -> None:
    config = replace(config, checkpoint_blocks=3)

    async with bitcoin(config) as service:
        for _ in range(8):
            await service.chain.ask(MineBlocks(1, UNSPENDABLE_SCRIPT))
        tip = await service.chain.ask(GetBlock(8))

    assert tip.confirmations == 1
    assert (await info(config)).tip_hash == tip.block.hash
