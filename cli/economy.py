"""The seeded economy of the demo, rendered onto a real regtest chain by its client.

The plan numbers its addresses and coins (services/ml/simulation/plan.py); here the numbers become
keys and signed transactions. Plan, keys and truth stay with the client: services see transactions.
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
MINE_TIMEOUT = 60.0  # seconds for a row of empty blocks
AT_ONCE = 16  # broadcasts in flight
WAGE_SAT = 100_000_000
FEE_SAT = 10_000


@dataclass(slots=True)
class State:
    """The client's memory of its economy, enough to resume an interrupted rendering."""

    secret: str  # hex, 32 bytes: every key of the town comes from it
    tip_time: int  # Unix time of its last block
    licit: str = ""  # address of the merchant with the most distinct funders
    scam: str = ""  # address of the scam that collected most often
    done: bool = False


@dataclass(frozen=True, slots=True)
class Payer:
    """The one inhabitant who is real: a wallet in the mesh, which acts through the mesh."""

    address: str
    settle: Callable[[], Awaitable[None]]  # called once there is a chain to live on
    pay: Callable[[str, int], Awaitable[None]]  # address, satoshis; to be mined in the next block


class Rendering:
    """A plan with real keys: numbers in, signed transactions out."""

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
        """The signed transaction of this number; those before it must have been asked for."""
        planned = self._plan.transactions[number]
        coins = [self._coin(transaction, vout) for transaction, vout in planned.inputs]
        outputs = [Output(amount, self.script(slot)) for slot, amount in planned.outputs]
        transaction = spend(coins, outputs)
        self._txids[number] = transaction.txid
        return transaction.raw

    def mined(self, number: int, txid: bytes) -> None:
        """The coinbase of this number is this one."""
        self._txids[number] = txid

    def _coin(self, transaction: int, vout: int) -> Coin:
        planned = self._plan.transactions[transaction]
        slot, amount = planned.outputs[vout]
        if not planned.inputs:
            amount = subsidy_sat(planned.height)
        return Coin(outpoint(self._txids[transaction], vout), amount, self.key(slot))


class Replay:
    """The way of a plan onto the chain, block by block."""

    def __init__(self, channels: Channels, plan: Plan, state: State, payer: Payer) -> None:
        self._chain = ChainServiceStub(channels["bitcoin"])
        self._regtest = RegtestServiceStub(channels["bitcoin"])
        self._plan = plan
        self._state = state
        self._payer = payer
        self._rendering = Rendering(
            plan, bytes.fromhex(state.secret), parse_address(payer.address, Network.REGTEST)
        )
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def run(self, progress: Callable[[int, int], None]) -> None:
        """Render every block that the chain lacks; ``progress`` hears the height and the tip.

        A chain that already has some of them is taken up where it was left: what was broadcast is
        accepted again without effect.
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
        """Put the block's transactions into the mempool."""
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
            await self._regtest.MineBlocks(request, timeout=MINE_TIMEOUT)

    async def _learn_coinbases(self, blocks: Iterable[PlannedBlock]) -> None:
        """Ask for the coinbases that the plan spends; nobody knows their txids beforehand."""
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
                "the chain of this home has blocks that are not the demo's",
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
) -> State:
    """The economy on the chain of this home: rendered now, or gone on with, or found there."""
    state = load(home)
    if state is not None and state.done:
        return state
    world = demo_world()
    if state is None:
        state = State(secrets.token_hex(32), int(time.time()))
        keys = Rendering(world.plan, bytes.fromhex(state.secret), b"")
        state.licit = keys.address(licit_recipient(world))
        state.scam = keys.address(illicit_recipient(world))
        _save(home, state)  # before the first block: it could not be gone on with otherwise
    await Replay(channels, world.plan, state, payer).run(progress)
    state.done = True
    _save(home, state)
    return state


async def pay_wages(channels: Channels, state: State, address: str, *, coins: int) -> None:
    """Put coins onto the address, from a matured subsidy that the town has not spent."""
    chain = ChainServiceStub(channels["bitcoin"])
    town = Rendering(demo_world().plan, bytes.fromhex(state.secret), b"").key(FUNDING_SLOT)
    found = await chain.ListUtxos(
        chain_pb2.ListUtxosRequest(address=town.address(Network.REGTEST), page_size=1000)
    )
    subsidy = next(utxo for utxo in found.utxos if utxo.confirmations > MATURITY_BLOCKS)
    coin = Coin(outpoint(subsidy.txid, subsidy.vout), subsidy.amount_sat, town)
    wages = [Output(WAGE_SAT, parse_address(address, Network.REGTEST))] * coins
    rest = subsidy.amount_sat - coins * WAGE_SAT - FEE_SAT
    raw = spend([coin], [*wages, Output(rest, town.script_pubkey)]).raw
    await chain.BroadcastTransaction(chain_pb2.BroadcastTransactionRequest(raw=raw))
    await RegtestServiceStub(channels["bitcoin"]).MineBlocks(
        regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=1)
    )


def load(home: Home) -> State | None:
    """What is remembered; None if this home has no economy yet."""
    path = home.client / FILE
    try:
        return State(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise CommandError(
            f"{path} is not what the demo wrote",
            reason="ECONOMY_INVALID",
            remedy="give the demo a home of its own: anya demo --home FOLDER",
        ) from None


def _save(home: Home, state: State) -> None:
    write_private(home.client / FILE, json.dumps(asdict(state)).encode())
