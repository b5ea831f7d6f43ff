"""Wrong clocks: timers follow the clock of the store, and the time of a run never goes back."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.payment_requests import finished, payment, status
from tests.orchestrator.process_succession import Succession
from tests.orchestrator.signals import await_status, start_run

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority
    from tests.orchestrator.fake_services import FakeServices

SKEW_S = 1800  # less than the certificates of the test live
PAUSES = steps(call("keep", STORE), "pause\n    wait: {duration: 2s}", call("more", STORE))
SOON = timedelta(seconds=60)


@pytest.mark.parametrize("skew", [SKEW_S, -SKEW_S])
async def test_replica_with_a_wrong_clock_is_neither_early_nor_late(
    skew: int,
    new_postgres_database: str,
    authority: Authority,
    tmp_path: Path,
    peers: dict[str, str],
    fakes: FakeServices,
) -> None:
    replicas = Succession.on(new_postgres_database, authority, tmp_path, peers)

    async with replicas.next(ANYA_TEST_SKEW=str(skew)) as (wrong, workflows):
        run_id = await start_run(workflows, PAUSES, did="d")
        await await_status(workflows, run_id, "WAITING")
        wrong.send_signal(signal.SIGKILL)
        await wrong.wait()
    start = time.monotonic()
    async with replicas.next() as (_, workflows):
        run = await finished(workflows, run_id)
        took = time.monotonic() - start

    assert status(run) == "SUCCEEDED"
    assert took < 30
    assert fakes.effects["StoreTransactionRecord"] == 2
    assert abs(run.create_time.ToDatetime(UTC) - datetime.now(UTC)) < SOON
    assert run.update_time.ToDatetime(UTC) - run.create_time.ToDatetime(UTC) >= timedelta(seconds=2)


async def test_replica_with_a_wrong_clock_takes_over_no_leased_run(
    new_postgres_database: str, authority: Authority, tmp_path: Path, peers: dict[str, str]
) -> None:
    replicas = Succession.on(new_postgres_database, authority, tmp_path, peers)
    others = Succession.on(new_postgres_database, authority, tmp_path / "other", peers)

    async with replicas.next() as (_, workflows):
        run_id = await start_run(workflows, PAUSES, did="d")
        async with others.next_beside(ANYA_TEST_SKEW=str(SKEW_S)) as (_, seen_by_other):
            run = await finished(seen_by_other, run_id)

    assert (status(run), run.recoveries) == ("SUCCEEDED", 0)


async def test_clock_that_jumps_back_delays_no_run(
    location: str, authority: Authority, tmp_path: Path, peers: dict[str, str], fakes: FakeServices
) -> None:
    orchestrators = Succession.on(location, authority, tmp_path, peers)

    async with orchestrators.next(ANYA_TEST_SKEW=str(SKEW_S)) as (before, workflows):
        run_id = await start_run(workflows, PAUSES, did="d")
        await await_status(workflows, run_id, "WAITING")
        before.send_signal(signal.SIGKILL)
        await before.wait()
    start = time.monotonic()
    async with orchestrators.next() as (_, workflows):
        run = await finished(workflows, run_id)
        took = time.monotonic() - start
        await workflows.StartRun(paid := payment(), timeout=10)
        other = await finished(workflows, paid.request_id)

    assert (status(run), status(other)) == ("SUCCEEDED", "SUCCEEDED")
    assert took < 30
    assert run.update_time.ToDatetime(UTC) >= run.create_time.ToDatetime(UTC)
