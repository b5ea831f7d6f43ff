"""A sent payment is updated until it is settled, and sent again if it is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import wallet_pb2 as pb
from tests.bitcoin.funded_mesh import FundedMesh, config, open_funded_mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority

FINAL_DEPTH = 3


@pytest.fixture
async def payer(authority: Authority, tmp_path: Path) -> AsyncIterator[FundedMesh]:
    settings = config(authority, tmp_path, final_depth=FINAL_DEPTH)
    async with open_funded_mesh(settings, authority) as people:
        yield people


async def test_payment_confirms_and_settles_with_its_blocks(payer: FundedMesh) -> None:
    sent = await payer.spender.SendPayment(payer.payment_request())

    await payer.mine()
    await payer.reaches(sent.payment_id, "CONFIRMED")
    await payer.mine(FINAL_DEPTH - 1)
    await payer.reaches(sent.payment_id, "SETTLED")

    found = await payer.spender.GetPayment(pb.GetPaymentRequest(payment_id=sent.payment_id))
    assert found.payment.txid == sent.txid
    assert found.payment.confirmations == FINAL_DEPTH
    assert await payer.events("bitcoin.payment.") == [
        "prepared",
        "broadcast",
        "confirmed",
        "settled",
    ]


async def test_payment_dropped_by_a_reorganisation_confirms_again(payer: FundedMesh) -> None:
    sent = await payer.spender.SendPayment(payer.payment_request())
    await payer.mine()
    await payer.reaches(sent.payment_id, "CONFIRMED")

    await payer.reorganize(1)
    await payer.reaches(sent.payment_id, "BROADCAST")
    waiting = await payer.waiting()
    await payer.mine()
    await payer.reaches(sent.payment_id, "CONFIRMED")

    assert waiting == [sent.txid]


async def test_payment_lost_with_the_mempool_is_sent_again_after_a_restart(
    authority: Authority, tmp_path: Path
) -> None:
    settings = config(authority, tmp_path)
    async with open_funded_mesh(settings, authority) as people:
        sent = await people.spender.SendPayment(people.payment_request())

    async with running(settings, authority) as people:
        async with asyncio.timeout(10):
            while await people.waiting() != [sent.txid]:
                pass

        assert await people.state(sent.payment_id) == "BROADCAST"


async def test_balance_shows_reserved_coins_until_they_are_spent(payer: FundedMesh) -> None:
    before = await payer.wallet.GetBalance(pb.GetBalanceRequest(wallet_id=payer.wallet_id))
    sent = await payer.spender.SendPayment(payer.payment_request())
    during = await payer.wallet.GetBalance(pb.GetBalanceRequest(wallet_id=payer.wallet_id))
    await payer.mine()
    after = await payer.wallet.GetBalance(pb.GetBalanceRequest(wallet_id=payer.wallet_id))

    assert (before.reserved_sat, before.spendable_sat) == (0, before.confirmed_sat)
    assert (during.reserved_sat, during.spendable_sat) == (during.confirmed_sat, 0)
    assert after.reserved_sat == 0
    assert after.spendable_sat == before.confirmed_sat - 1_000_000 - sent.fee_sat
