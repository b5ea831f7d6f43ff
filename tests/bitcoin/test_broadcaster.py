"""The broadcaster against a real chain: a rejection ends a payment only at its first send."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from mesh.actor import Actor, spawn
from mesh.clock import ManualClock
from mesh.data import outbox
from mesh.data.database import Database, open_database
from mesh.errors import Unavailable
from mesh.testing import eventually
from services.bitcoin.__main__ import Bitcoin, bitcoin
from services.bitcoin.actors.chain_messages import Broadcast, ListMempool, MineBlocks
from services.bitcoin.actors.wallet import FollowPayments, poll_pending_payments
from services.bitcoin.broadcaster import Broadcaster
from services.bitcoin.payment import PaymentState
from services.bitcoin.store.payment import PaymentStore
from tests.bitcoin.funded_mesh import MATURITY_BLOCKS, config
from tests.bitcoin.making_payments import SCRIPT, create_wallet, make, payment_id, payment_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.actor import ActorRef, Message
    from mesh.testing import Authority
    from services.bitcoin.actors.chain_messages import ChainMessage

FINAL_DEPTH = 3


class Sends:
    """The chain's actor, with a count of the transactions that it is sent."""

    def __init__(self, chain: ActorRef[ChainMessage]) -> None:
        self._chain = chain
        self.count = 0

    async def ask(self, message: Message[Any]) -> Any:
        self.count += isinstance(message, Broadcast)
        return await self._chain.ask(message)


class Debt:
    """Commits a payment whose bytes every mempool rejects."""

    def __init__(self, service: Bitcoin, database: Database) -> None:
        self.service = service
        self.store = PaymentStore(database, final_depth=FINAL_DEPTH)
        self.clock = ManualClock()
        self.sends = Sends(service.chain)
        self.broadcaster = Broadcaster(
            self.store, cast("Any", self.sends), final_depth=FINAL_DEPTH, clock=self.clock
        )
        self._database = database

    async def state(self) -> PaymentState:
        return (await self.store.get(payment_id(1))).state

    async def send_first(self, number: int) -> bool:
        (owed,) = await self.store.open(payment_id(number))
        return await self.broadcaster.send_first(payment_id(number), owed.raw)

    async def events(self) -> list[str]:
        recorded = await self._database.read(lambda tx: outbox.read(tx, after=0, limit=1000))
        prefix = "bitcoin.payment."
        types = [event.type for event in recorded]
        return [type.removeprefix(prefix) for type in types if type.startswith(prefix)]


@asynccontextmanager
async def open_debt(authority: Authority, folder: Path) -> AsyncIterator[Debt]:
    # The service's own polls would send as well; an hour postpones them.
    settings = config(authority, folder, poll_seconds=3600.0)
    async with bitcoin(settings) as service, open_database(settings.location, schema="") as own:
        await create_wallet(own)
        await service.chain.ask(MineBlocks(1, SCRIPT))
        await service.chain.ask(MineBlocks(MATURITY_BLOCKS, b""), timeout=30)
        debt = Debt(service, own)
        await make(debt.store, payment_request(1))
        yield debt


@pytest.fixture
async def debt(authority: Authority, tmp_path: Path) -> AsyncIterator[Debt]:
    async with open_debt(authority, tmp_path) as debt:
        yield debt


async def test_payment_rejected_at_its_first_send_is_final(debt: Debt) -> None:
    await debt.send_first(1)

    assert await debt.state() is PaymentState.REJECTED
    assert await debt.store.open() == []
    assert await debt.events() == ["prepared", "rejected"]
    assert await debt.service.chain.ask(ListMempool()) == ()


async def test_rejection_after_an_unknown_send_does_not_end_the_payment(debt: Debt) -> None:
    await debt.broadcaster.send(payment_id(1))
    await debt.broadcaster.follow_all()

    assert await debt.state() is PaymentState.PREPARED
    assert len(await debt.store.open()) == 1
    assert await debt.events() == ["prepared"]


async def test_poll_continues_after_a_rejected_payment(debt: Debt) -> None:
    await debt.service.chain.ask(MineBlocks(1, SCRIPT))
    await debt.service.chain.ask(MineBlocks(MATURITY_BLOCKS, b""), timeout=30)
    await make(debt.store, payment_request(2))

    await debt.send_first(2)
    await debt.broadcaster.follow_all()

    assert (await debt.store.get(payment_id(2))).state is PaymentState.REJECTED
    assert await debt.state() is PaymentState.PREPARED


async def test_payment_that_cannot_be_sent_is_sent_ever_less_often_and_logged_once(
    debt: Debt, caplog: pytest.LogCaptureFixture
) -> None:
    counts = []
    for _ in range(8):
        await debt.broadcaster.follow_all()
        counts.append(debt.sends.count)
        debt.clock.advance(1.0)

    assert counts == [1, 2, 2, 3, 3, 3, 3, 4]  # after 0, 1, 3 and 7 seconds
    assert sum("is missing" in message for message in caplog.messages) == 1
    assert f"payment {payment_id(1)} is missing" in caplog.text


async def test_payment_that_cannot_be_sent_is_sent_again_at_once_after_a_new_block(
    debt: Debt,
) -> None:
    await debt.broadcaster.follow_all()
    await debt.broadcaster.follow_all()
    await debt.broadcaster.follow_all(is_new_tip=True)

    assert debt.sends.count == 2


class Follower(Actor[FollowPayments]):
    """Cannot follow payments at first; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    async def receive(self, message: FollowPayments) -> None:
        self.asked.append(message.is_new_tip)
        if len(self.asked) == 1:
            raise Unavailable("the chain does not answer")


async def test_new_block_is_not_forgotten_if_payments_cannot_be_followed() -> None:
    follower, changed = Follower(), asyncio.Event()
    changed.set()

    async def build() -> Follower:
        return follower

    async with spawn(build, name="wallet") as wallet:
        poll = poll_pending_payments(cast("Any", wallet), changed, interval_s=0.01)
        polling = asyncio.create_task(poll)
        await eventually(lambda: len(follower.asked) >= 3)
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)

    assert follower.asked[:3] == [True, True, False]
