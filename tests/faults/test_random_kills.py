"""Payments under random kills of all services: each has the same outcome in every source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.deployment import Store
from tests.faults.trial import TEN_PAYMENTS, TWENTY_PAYMENTS, run_trial
from tests.profile import full_or_short

if TYPE_CHECKING:
    from pathlib import Path

SEED = 7
PROFILE = full_or_short(TWENTY_PAYMENTS, short=TEN_PAYMENTS)


@pytest.mark.parametrize("store", Store)
async def test_no_payment_is_lost_or_made_twice(store: Store, tmp_path: Path) -> None:
    result = await run_trial(tmp_path / "home", SEED, PROFILE, store)

    assert result.holds, result
    assert result.outcomes.total() == PROFILE.payments
    assert result.outcomes["SUCCEEDED"] > PROFILE.payments // 2
