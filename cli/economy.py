"""The seeded economy of the demo, which the client renders onto a real regtest chain.

The plan numbers its addresses and coins (services/ml/simulation/plan.py); this module derives keys
and signs transactions for the numbers. The services get the transactions only.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
import uuid
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli.errors import CommandError
from cli.home import write_private
from formats.bitcoin.address import parse_address
from formats.bitcoin.block import parse_block
from formats.bitcoin.network import Network
from formats.bitcoin.p2wpkh import Coin, Key, spend
from formats.bitcoin.transaction import Output, outpoint
from services.ml.simulation.demonstration import illicit_recipient, licit_recipient
from services.ml.simulation.plan import FUNDING_SLOT, MATURITY_BLOCKS, subsidy_sat
from services.ml.simulation.population import demo_world

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from cli.connection import Channels
    from cli.home import Home
    from services.ml.simulation.plan import Plan, PlannedBlock

FILE = "economy.json"
MINE_TIMEOUT_S = 60.0  # of a series of empty blocks
MAX_BROADCASTS = 16  # in flight
WAGE_SAT = 100_000_000
FEE_SAT = 10_000


@dataclass(slots=True)
class EconomyState:
    """The stored state of an economy, sufficient to resume an interrupted rendering."""

    secret: str  # hex, 32 bytes: every key of the economy is derived from it
    tip_time: int  # Unix time of its last block
    licit: str = ""  # address of the merchant with the most distinct funders
    scam: str = ""  # address of the scam that collected most often
    done: bool = False


@dataclass(frozen=True, slots=True)
class Payer:
    """The payer of the demo: a managed wallet, which pays through the mesh."""

    address: str
    settle: Callable[[], Awaitable[None]]  # called after the first block with payments
    pay: Callable[[str, int], Awaitable[None]]  # address, satoshis; before the next block is mined


class Rendering:
    """Derives the keys of a plan, and signs its transactions."""

    def __init__(self, plan: Plan, secret: bytes, payer_script: bytes) -> None:
        self._plan = plan
        self._secret = secret
        self._payer_script = payer_script
        self._keys: dict[int, Key] = {}
        self._txids: dict[int, bytes] = {}

    def key(self, slot: int) -> Key:
        if slot not in self._keys:
            number = slot.to_bytes(4, "big")
            self._keys[slot] = Key.from_secret(hmac.digest(self._secret, number, hashlib.sha256))
        return self._keys[slot]

    def address(self, slot: int) -> str:
        return self.key(slot).address(Network.REGTEST)

    def script(self, slot: int) -> bytes:
        return self._payer_script if slot == self._plan.payer_slot else self.key(slot).script_pubkey

    def transaction(self, number: int) -> bytes:
        """Returns the raw signed transaction of this number, after those of all lower numbers."""
        planned = self._plan.transactions[number]
        coins = [self._coin(transaction, vout) for transaction, vout in planned.inputs]
        outputs = [Output(amount, self.script(slot)) for slot, amount in planned.outputs]
        transaction = spend(coins, outputs)
        self._txids[number] = transaction.txid
        return transaction.raw

    def mined(self, number: int, txid: bytes) -> None:
        """Stores the txid of the coinbase with this number."""
        self._txids[number] = txid

    def _coin(self, transaction: int, vout: int) -> Coin:
        planned = self._plan.transactions[transaction]
        slot, amount = planned.outputs[vout]
        if not planned.inputs:
            amount = subsidy_sat(planned.height)
        return Coin(outpoint(self._txids[transaction], vout), amount, self.key(slot))


class Replay:
    """Renders a plan onto the chain, block by block."""

    def __init__(self, channels: Channels, plan: Plan, state: EconomyState, payer: Payer) -> None:
        self._chain = ChainServiceStub(channels["bitcoin"])
        self._regtest = RegtestServiceStub(channels["bitcoin"])
        self._plan = plan
        self._state = state
        self._payer = payer
        self._rendering = Rendering(
            plan, bytes.fromhex(state.secret), parse_address(payer.address, Network.REGTEST)
        )
        self._gate = asyncio.Semaphore(MAX_BROADCASTS)

    async def run(self, progress: Callable[[int, int], None]) -> None:
        """Renders every block that the chain lacks; calls ``progress`` with height and tip.

        Resumes an interrupted rendering: a broadcast of a known transaction has no effect.
        """
        found = (await self._chain.GetChainInfo(chain_pb2.GetChainInfoRequest())).height
        if found:
            await self._require_ours()
        for is_empty, group in groupby(self._plan.blocks, lambda one: len(one.transactions) == 1):
            blocks = list(group)
            if is_empty:
                await self._mine([block for block in blocks if block.height > found])
                await self._learn_coinbases(blocks)
                continue
            for block in blocks:
                await self._fill(block, again=block.height <= found)
                if block.height > found:
                    await self._mine([block])
                if block is blocks[0]:
                    await self._payer.settle()
                progress(block.height, self._plan.tip)

    async def _fill(self, block: PlannedBlock, *, again: bool) -> None:
        """Broadcasts the transactions of a block."""
        raws = []
        for number in block.transactions[1:]:
            planned = self._plan.transactions[number]
            if not planned.by_payer:
                raws.append(self._rendering.transaction(number))
            elif not again:
                slot, amount = planned.outputs[0]
                await self._payer.pay(self._rendering.address(slot), amount)
        await asyncio.gather(*map(self._broadcast, raws))

    async def _broadcast(self, raw: bytes) -> None:
        async with self._gate:
            await self._chain.BroadcastTransaction(chain_pb2.BroadcastTransactionRequest(raw=raw))

    async def _mine(self, blocks: Sequence[PlannedBlock]) -> None:
        if blocks:
            request = regtest_pb2.MineBlocksRequest(
                request_id=str(uuid.uuid4()),
                count=len(blocks),
                address=self._rendering.address(FUNDING_SLOT),
                block_times=[self._time(block.height) for block in blocks],
            )
            await self._regtest.MineBlocks(request, timeout=MINE_TIMEOUT_S)

    async def _learn_coinbases(self, blocks: Iterable[PlannedBlock]) -> None:
        """Reads the txids of the coinbases that the plan spends, once they are mined."""
        for block in blocks:
            number = block.transactions[0]
            if number in self._spent_coinbases:
                self._rendering.mined(number, await self._coinbase(block.height))

    async def _coinbase(self, height: int) -> bytes:
        reply = await self._chain.GetBlock(chain_pb2.GetBlockRequest(height=height))
        return parse_block(reply.raw).transactions[0].txid

    async def _require_ours(self) -> None:
        reply = await self._chain.GetBlock(chain_pb2.GetBlockRequest(height=1))
        ours = self._rendering.key(FUNDING_SLOT).script_pubkey
        if parse_block(reply.raw).transactions[0].outputs[0].script_pubkey != ours:
            raise CommandError(
                "the chain of this home has blocks that the demo did not mine",
                reason="CHAIN_NOT_FRESH",
                remedy="give the demo a home of its own: anya demo --home FOLDER",
            )

    @cached_property
    def _spent_coinbases(self) -> set[int]:
        coins = (coin for planned in self._plan.transactions for coin in planned.inputs)
        return {number for number, _ in coins if not self._plan.transactions[number].inputs}

    def _time(self, height: int) -> Timestamp:
        return Timestamp(seconds=self._plan.block_time(height, self._state.tip_time))


async def ensure(
    home: Home, channels: Channels, payer: Payer, progress: Callable[[int, int], None]
) -> EconomyState:
    """Returns the economy of this home; renders it, or resumes its rendering, if necessary."""
    state = load(home)
    if state is not None and state.done:
        return state
    world = demo_world()
    if state is None:
        state = EconomyState(secrets.token_hex(32), int(time.time()))
        keys = Rendering(world.plan, bytes.fromhex(state.secret), b"")
        state.licit = keys.address(licit_recipient(world))
        state.scam = keys.address(illicit_recipient(world))
        _save(home, state)  # before the first block, so that an interrupted rendering can resume
    await Replay(channels, world.plan, state, payer).run(progress)
    state.done = True
    _save(home, state)
    return state


async def pay_wages(channels: Channels, state: EconomyState, address: str, *, coins: int) -> None:
    """Pays coins to the address, from a mature subsidy that the plan has not spent."""
    chain = ChainServiceStub(channels["bitcoin"])
    funder = Rendering(demo_world().plan, bytes.fromhex(state.secret), b"").key(FUNDING_SLOT)
    found = await chain.ListUtxos(
        chain_pb2.ListUtxosRequest(address=funder.address(Network.REGTEST), page_size=1000)
    )
    subsidy = next(utxo for utxo in found.utxos if utxo.confirmations > MATURITY_BLOCKS)
    coin = Coin(outpoint(subsidy.txid, subsidy.vout), subsidy.amount_sat, funder)
    wages = [Output(WAGE_SAT, parse_address(address, Network.REGTEST))] * coins
    rest = subsidy.amount_sat - coins * WAGE_SAT - FEE_SAT
    raw = spend([coin], [*wages, Output(rest, funder.script_pubkey)]).raw
    await chain.BroadcastTransaction(chain_pb2.BroadcastTransactionRequest(raw=raw))
    await RegtestServiceStub(channels["bitcoin"]).MineBlocks(
        regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1)
    )


def load(home: Home) -> EconomyState | None:
    """Returns the stored state, or None if this home has no economy yet.

    Raises CommandError if the file is damaged.
    """
    path = home.client / FILE
    try:
        return EconomyState(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise CommandError(
            f"{path} is damaged",
            reason="ECONOMY_INVALID",
            remedy="give the demo a home of its own: anya demo --home FOLDER",
        ) from None


def _save(home: Home, state: EconomyState) -> None:
    write_private(home.client / FILE, json.dumps(asdict(state)).encode())
