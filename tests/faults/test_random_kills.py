"""Payments while any service may be killed at any moment: each has one outcome, everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.deployment import Store
from tests.faults.trial import SHOWER, try_payments

if TYPE_CHECKING:
    from pathlib import Path

SEED = 7


@pytest.mark.parametrize("store", Store)
async def test_no_payment_is_lost_or_made_twice(store: Store, tmp_path: Path) -> None:
    verdict = await try_payments(tmp_path / "home", SEED, SHOWER, store)

    assert verdict.holds, verdict
    assert verdict.outcomes.total() == SHOWER.payments
    assert verdict.outcomes["SUCCEEDED"] > SHOWER.payments // 2
