"""SendPayment through the wire: once, with proof, on a real chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import wallet_pb2 as pb
from tests.bitcoin.town import Town, config, town

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority


@pytest.fixture
async def payer(authority: Authority, tmp_path: Path) -> AsyncIterator[Town]:
    async with town(config(authority, tmp_path), authority) as people:
        yield people


async def test_a_proven_payment_reaches_the_mempool(payer: Town) -> None:
    order = payer.order(amount_sat=1_000_000)

    sent = await payer.spender.SendPayment(order)

    assert sent.status == pb.PAYMENT_STATUS_SUCCESS
    assert await payer.waiting() == [sent.txid]


async def test_a_retry_pays_nothing_more_and_gets_the_same_answer(payer: Town) -> None:
    order = payer.order()

    first = await payer.spender.SendPayment(order)
    second = await payer.spender.SendPayment(order)

    assert second == first
    assert await payer.waiting() == [first.txid]
