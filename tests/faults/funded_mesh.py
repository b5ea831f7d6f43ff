"""The parties of the payments: payers with wallets, linked addresses and coins, and shops."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import chain_pb2, regtest_pb2, wallet_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceStub
from cli.demo import cast
from formats.bitcoin.address import parse_address
from formats.bitcoin.block import parse_block
from formats.bitcoin.network import Network
from formats.bitcoin.p2wpkh import Coin, Key, spend
from formats.bitcoin.transaction import Output, outpoint

if TYPE_CHECKING:
    from cli.connection import Channels
    from cli.home import Home
    from cli.identities import Identity

MATURITY_BLOCKS = 100  # until a subsidy may be spent
SUBSIDY_SAT = 5_000_000_000
COIN_SAT = 2_000_000
FEE_SAT = 200_000
EARLIER_SALES = 3  # of every shop, each to another customer, as history for the risk model


@dataclass(frozen=True, slots=True)
class FundedMesh:
    payers: tuple[Identity, ...]
    unlinked: Identity  # has the payers' credential, but no linked address
    shops: tuple[str, ...]  # addresses


async def fund(
    home: Home, channels: Channels, *, payers: int, shops: int, coins: int
) -> FundedMesh:
    """Creates payers and shops, with ``coins`` confirmed coins on the address of each payer."""
    people = [await _payer(home, channels, f"payer-{number}") for number in range(payers)]
    unlinked = await cast.enter(home, channels, "stranger")
    keys = [Key.from_secret(secrets.token_bytes(32)) for _ in range(shops)]
    await _endow(channels, people, keys, coins)
    people = [await cast.link(home, channels, payer, payer.addresses[0]) for payer in people]
    return FundedMesh(tuple(people), unlinked, tuple(key.address(Network.REGTEST) for key in keys))


async def _payer(home: Home, channels: Channels, name: str) -> Identity:
    """Creates a payer with a wallet and an address that is not linked yet."""
    payer = await cast.enter(home, channels, name)
    stub = WalletServiceStub(channels["bitcoin"])
    created = await stub.CreateWallet(wallet_pb2.CreateWalletRequest(request_id=name, name=name))
    wallet = created.wallet.wallet_id
    derived = await stub.DeriveAddress(
        wallet_pb2.DeriveAddressRequest(request_id=f"{name}/address", wallet_id=wallet)
    )
    return replace(payer, wallet_id=wallet, addresses=(derived.address,))


async def _endow(channels: Channels, people: list[Identity], shops: list[Key], coins: int) -> None:
    """Distributes mined subsidies: coins for the payers, and earlier sales of the shops."""
    mint = Key.from_secret(secrets.token_bytes(32))
    customers = [Key.from_secret(secrets.token_bytes(32)) for _ in range(EARLIER_SALES)]
    await _mine(channels, len(people) + 1 + MATURITY_BLOCKS, address=mint.address(Network.REGTEST))
    subsidies = [await _subsidy(channels, mint, height + 1) for height in range(len(people) + 1)]
    for payer, subsidy in zip(people, subsidies, strict=False):
        outputs = [Output(COIN_SAT, parse_address(payer.addresses[0], Network.REGTEST))] * coins
        await _send(channels, [subsidy], outputs, rest=mint)
    paid = await _send(
        channels, [subsidies[-1]], [Output(COIN_SAT * 100, key.script_pubkey) for key in customers]
    )
    await _mine(channels, 1)
    for vout, customer in enumerate(customers):
        sales = [Output(COIN_SAT, shop.script_pubkey) for shop in shops]
        await _send(
            channels, [Coin(outpoint(paid, vout), COIN_SAT * 100, customer)], sales, rest=customer
        )
        await _mine(channels, 1)


async def _subsidy(channels: Channels, owner: Key, height: int) -> Coin:
    stub = ChainServiceStub(channels["bitcoin"])
    block = await stub.GetBlock(chain_pb2.GetBlockRequest(height=height))
    return Coin(outpoint(parse_block(block.raw).transactions[0].txid, 0), SUBSIDY_SAT, owner)


async def _send(
    channels: Channels, coins: list[Coin], outputs: list[Output], rest: Key | None = None
) -> bytes:
    left = sum(coin.amount_sat for coin in coins) - sum(one.amount_sat for one in outputs) - FEE_SAT
    outputs = [*outputs, Output(left, (rest or coins[0].key).script_pubkey)]
    transaction = await asyncio.to_thread(spend, coins, outputs)
    stub = ChainServiceStub(channels["bitcoin"])
    await stub.BroadcastTransaction(chain_pb2.BroadcastTransactionRequest(raw=transaction.raw))
    return transaction.txid


async def _mine(channels: Channels, count: int, *, address: str = "") -> None:
    request = regtest_pb2.MineBlocksRequest(
        request_id=str(uuid.uuid4()), count=count, address=address
    )
    await RegtestServiceStub(channels["bitcoin"]).MineBlocks(request, timeout=60)
