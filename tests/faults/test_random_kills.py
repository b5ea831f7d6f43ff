"""Payments while any service may be killed at any moment: each has one outcome, everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.deployment import Store
from tests.faults.trial import DRIZZLE, SHOWER, try_payments
from tests.profile import full_or_short

if TYPE_CHECKING:
    from pathlib import Path

SEED = 7
WEATHER = full_or_short(SHOWER, short=DRIZZLE)


@pytest.mark.parametrize("store", Store)
async def test_no_payment_is_lost_or_made_twice(store: Store, tmp_path: Path) -> None:
    verdict = await try_payments(tmp_path / "home", SEED, WEATHER, store)

    assert verdict.holds, verdict
    assert verdict.outcomes.total() == WEATHER.payments
    assert verdict.outcomes["SUCCEEDED"] > WEATHER.payments // 2
