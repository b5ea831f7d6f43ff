"""The whole service: its settings, its stores, and auto mining."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mesh.errors import FailedPrecondition
from mesh.settings import ConfigError
from mesh.testing import eventually
from services.bitcoin.__main__ import bitcoin
from services.bitcoin.actors.chain_messages import (
    Broadcast,
    FindTransaction,
    GetBlock,
    GetChainInfo,
    MineBlocks,
)
from services.bitcoin.chain import COINBASE_MATURITY_BLOCKS
from services.bitcoin.config import BitcoinConfig, MiningMode
from tests.bitcoin.payer import Payer

if TYPE_CHECKING:
    from formats.bitcoin.transaction import Transaction
    from services.bitcoin.__main__ import Bitcoin


async def fund(service: Bitcoin, payer: Payer) -> Transaction:
    """Mines a mature coinbase to the payer."""
    await service.chain.ask(MineBlocks(1, payer.script))
    await service.chain.ask(MineBlocks(COINBASE_MATURITY_BLOCKS, payer.script))
    return (await service.chain.ask(GetBlock(1))).block.transactions[0]


async def test_chain_and_index_run_on_either_store(config: BitcoinConfig, location: str) -> None:
    config = replace(config, database=location)
    payer = Payer()
    async with bitcoin(config) as service:
        payment = payer.sweep(await fund(service, payer), payer.script)
        await service.chain.ask(Broadcast(payment.raw))
        await service.chain.ask(MineBlocks(1, payer.script))

    async with bitcoin(config) as service:
        found = await service.chain.ask(FindTransaction(payment.txid))

    assert (found.confirmations, found.block_height) == (1, COINBASE_MATURITY_BLOCKS + 2)


async def test_auto_mining_confirms_a_transaction(config: BitcoinConfig) -> None:
    config = replace(config, mining=MiningMode.AUTO, mining_delay_seconds=0.01)
    payer = Payer()
    async with bitcoin(config) as service:
        payment = payer.sweep(await fund(service, payer), payer.script)

        await service.chain.ask(Broadcast(payment.raw))

        async def confirmed() -> bool:
            return (await service.chain.ask(FindTransaction(payment.txid))).confirmations > 0

        await eventually(confirmed)
        assert (await service.chain.ask(GetChainInfo())).height == COINBASE_MATURITY_BLOCKS + 2


async def test_invalid_database_prevents_the_start(config: BitcoinConfig) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "bitcoin.db").write_bytes(b"this is not a database, but long enough" * 100)

    with pytest.raises(FailedPrecondition, match=r"not a database.*restore"):
        async with bitcoin(config):
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [("ANYA_MINE", "sometimes"), ("ANYA_BLOCK_LOG", "forget"), ("ANYA_NETWORK", "main")],
)
def test_invalid_setting_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        BitcoinConfig.from_environment({name: value})
