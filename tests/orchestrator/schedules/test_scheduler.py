"""Each due time starts at most one run, on both databases, across replicas and crashes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mesh import failpoint
from mesh.clock import ManualClock
from mesh.errors import AlreadyExists, InvalidArgument, NotFound, Reason
from mesh.testing import eventually
from services.orchestrator.schedules.cron import cron
from services.orchestrator.schedules.schedule import CatchUp, Overlap
from tests.orchestrator.schedules.schedule_replica import (
    CHANGED,
    HOUR_S,
    LONG,
    NOON_MS,
    OPERATOR,
    PAYS,
    replica,
)

if TYPE_CHECKING:
    from pathlib import Path

    from services.orchestrator.config import OrchestratorConfig

RETRY_DELAY_S = 2.0  # until a poll repeats a start without an outcome


def run_at(hour: int) -> str:
    return f"hourly-20260101T{hour}0000.000Z"


async def test_each_due_time_starts_one_run_of_the_schedules_creator(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        await it.start_all_due()
        before = await it.runs()
        await it.pass_hours(1)
        await it.start_all_due()
        await it.pass_hours(0.5)
        await it.pass_hours(0.5)
        progress = await it.progress()
        state = (await it.store.runs.load(run_at(13))).state

        assert before == []
        assert await it.runs() == [run_at(13), run_at(14)]
    assert (progress.started, progress.last_run_id) == (2, run_at(14))
    assert progress.next_due_ms == NOON_MS + 3 * HOUR_S * 1000
    assert state.input == {"to": "Ada"}
    assert state.started_by == OPERATOR


@pytest.mark.parametrize("allowed", [None, frozenset[str](), frozenset({"read_identity", "spend"})])
async def test_runs_have_the_privileges_allowed_to_the_creator(
    config: OrchestratorConfig, location: str, allowed: frozenset[str] | None
) -> None:
    async with replica(config, location) as it:
        await it.create(allowed_privileges=allowed)
        await it.pass_hours(1)

        assert (await it.store.runs.load(run_at(13))).state.allowed_privileges == allowed


async def test_cron_schedule_is_due_in_its_time_zone(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create(timing=cron("30 18 * * *", "Asia/Kolkata"))
        await it.pass_hours(1)
        await it.pass_hours(24)

        assert await it.runs() == ["hourly-20260101T130000.000Z", "hourly-20260102T130000.000Z"]


async def test_concurrent_polls_start_one_run(config: OrchestratorConfig, location: str) -> None:
    async with replica(config, location) as it:
        await it.create()
        it.clock.advance(HOUR_S)

        await asyncio.gather(*(it.scheduler.start_due() for _ in range(16)))

        assert await it.runs() == [run_at(13)]
        assert (await it.progress()).started == 1


async def test_replicas_that_poll_at_once_start_one_run(
    config: OrchestratorConfig, new_postgres_database: str, tmp_path: Path
) -> None:
    clock = ManualClock(NOON_MS / 1000)
    elsewhere = replace(config, mesh=replace(config.mesh, home=tmp_path / "other"))
    async with (
        replica(config, new_postgres_database, clock) as one,
        replica(elsewhere, new_postgres_database, clock) as other,
    ):
        for number in range(20):
            await one.create(f"s{number}")
        for _ in range(3):
            clock.advance(HOUR_S)
            await asyncio.gather(*(each.start_all_due() for each in (one, other) * 4))
        runs = await one.runs()
        counts = {(await other.progress(f"s{number}")).started for number in range(20)}

    assert len(runs) == len(set(runs)) == 60
    assert counts == {3}


async def test_claimed_due_time_without_a_run_is_retried(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        it.clock.advance(HOUR_S)
        decided = await it.schedules.claim()
        await it.start_all_due()
        too_early = await it.runs()
        it.clock.advance(RETRY_DELAY_S)
        await it.start_all_due()

        assert [firing.run_id for firing in decided] == [run_at(13)]
        assert too_early == []
        assert await it.runs() == [run_at(13)]
        assert (await it.progress()).started == 1


async def test_started_run_without_an_outcome_is_not_started_again(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        failpoint.arm("schedule.before_outcome/hourly=error", network="regtest")
        await it.pass_hours(1)
        without_outcome = await it.progress()
        it.clock.advance(RETRY_DELAY_S)
        await it.start_all_due()

        assert (without_outcome.started, without_outcome.firing_ms) == (0, NOON_MS + HOUR_S * 1000)
        assert await it.runs() == [run_at(13)]
        assert (await it.progress()).started == 1


async def test_late_outcome_changes_nothing(config: OrchestratorConfig, location: str) -> None:
    async with replica(config, location) as it:
        await it.create()
        it.clock.advance(HOUR_S)
        (firing,) = await it.schedules.claim()
        it.clock.advance(RETRY_DELAY_S)
        await it.start_all_due()
        before = await it.progress()
        await it.schedules.record_outcome(firing)
        await it.schedules.record_outcome(firing, "refused")

        assert await it.progress() == before


async def test_failing_schedule_does_not_stop_the_others(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        await it.create("sound")
        failpoint.arm("schedule.before_start/hourly=error", network="regtest")
        await it.pass_hours(1)

        assert await it.runs() == ["sound-20260101T130000.000Z"]


@pytest.mark.parametrize(
    ("policy", "limit", "started"),
    [
        (CatchUp.NONE, 100, []),
        (CatchUp.LATEST, 100, [17]),
        (CatchUp.ALL, 100, [13, 14, 15, 16, 17]),
        (CatchUp.ALL, 2, [16, 17]),
    ],
)
async def test_catch_up_policy_decides_after_an_outage(
    config: OrchestratorConfig, location: str, policy: CatchUp, limit: int, started: list[int]
) -> None:
    async with replica(config, location) as it:
        await it.create(catch_up=policy, catch_up_limit=limit, overlap=Overlap.ALLOW)
        await it.pass_hours(5.5)

        assert await it.runs() == [run_at(hour) for hour in started]
        assert (await it.progress()).next_due_ms == NOON_MS + 6 * HOUR_S * 1000


@pytest.mark.parametrize(
    ("overlap", "started", "skipped"), [(Overlap.SKIP, [13], 2), (Overlap.ALLOW, [13, 14, 15], 0)]
)
async def test_overlap_policy_decides_while_a_run_has_not_ended(
    config: OrchestratorConfig,
    location: str,
    overlap: Overlap,
    started: list[int],
    skipped: int,
) -> None:
    async with replica(config, location) as it:
        await it.registry.register(LONG)
        await it.create(overlap=overlap)
        for _ in range(3):
            await it.pass_hours(1)
        progress = await it.progress()

        assert await it.runs() == [run_at(hour) for hour in started]
    assert (progress.started, progress.skipped) == (len(started), skipped)


async def test_next_run_starts_once_the_last_has_ended(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create(overlap=Overlap.SKIP)
        await it.pass_hours(1)

        async def has_ended() -> bool:
            return (await it.store.runs.load(run_at(13))).state.finished

        await eventually(has_ended)
        await it.pass_hours(1)

        assert await it.runs() == [run_at(13), run_at(14)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [(CHANGED, "name"), (PAYS, "this workflow pays")],
    ids=["another input", "it pays now"],
)
async def test_refused_run_is_reported_and_does_not_stop_the_next(
    config: OrchestratorConfig, location: str, changed: str, message: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        await it.registry.register(changed)
        await it.pass_hours(1)
        refused = await it.progress()
        await it.registry.register(LONG)
        await it.pass_hours(1)
        after = await it.progress()

        assert await it.runs() == [run_at(14)]
    assert (refused.refused, refused.started) == (1, 0)
    assert message in refused.last_error
    assert refused.last_error_due_ms == NOON_MS + HOUR_S * 1000
    assert (after.refused, after.started) == (1, 1)


async def test_due_times_during_a_pause_are_not_caught_up(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create(catch_up=CatchUp.ALL)
        await it.pause(paused=True, request_id="a")
        await it.pass_hours(2.5)
        paused = await it.progress()
        await it.pause(paused=False, request_id="b")
        await it.pause(paused=True, request_id="a")  # repeated: it has no second effect
        await it.pass_hours(0.5)

        assert await it.runs() == [run_at(15)]
    assert (paused.paused, paused.next_due_ms) == (True, None)


async def test_pause_starts_only_the_run_claimed_before_it(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        it.clock.advance(HOUR_S)
        await it.schedules.claim()
        await it.pause(paused=True, request_id="a")
        await it.pass_hours(3)

        assert await it.runs() == [run_at(13)]


async def test_deleted_schedule_starts_no_more_runs(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        await it.pass_hours(1)
        await it.delete_as("hourly", "a")
        await it.delete_as("hourly", "a")
        await it.pass_hours(2)

        assert await it.runs() == [run_at(13)]
        with pytest.raises(NotFound):
            await it.delete_as("hourly", "b")
        with pytest.raises(NotFound):
            await it.stored()


async def test_schedule_is_not_due_after_its_end(config: OrchestratorConfig, location: str) -> None:
    async with replica(config, location) as it:
        await it.create(end_ms=NOON_MS + 2 * HOUR_S * 1000)
        for _ in range(4):
            await it.pass_hours(1)

        assert await it.runs() == [run_at(13), run_at(14)]
        assert (await it.progress()).next_due_ms is None
        assert await it.scheduler.start_due() == float("inf")


async def test_schedule_whose_zone_became_unknown_is_paused_with_an_error(
    config: OrchestratorConfig, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(config, location) as it:
        await it.create(timing=cron("0 * * * *", "Europe/Berlin"))
        monkeypatch.setattr("services.orchestrator.schedules.cron._zones", frozenset)
        await it.pass_hours(1)
        progress = await it.progress()

    assert progress.paused
    assert "Europe/Berlin" in progress.last_error


async def test_schedule_whose_runs_could_not_start_is_refused(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        with pytest.raises(InvalidArgument, match="input of report"):
            await it.create(input={"to": 5, "more": 1})
        with pytest.raises(InvalidArgument, match="nothing is due"):
            await it.create(end_ms=NOON_MS + 1)
        await it.registry.register(PAYS)
        with pytest.raises(InvalidArgument) as pays:
            await it.create()

    assert pays.value.reason == Reason.WORKFLOW_MAKES_PAYMENTS


async def test_schedule_id_is_used_until_the_schedule_is_deleted(
    config: OrchestratorConfig, location: str
) -> None:
    async with replica(config, location) as it:
        await it.create()
        await it.create()  # repeated: it has no second effect
        with pytest.raises(AlreadyExists):
            await it.create(creator="spiffe://anya.internal/client/other")
        await it.delete_as("hourly", "a")
        await it.create(creator="spiffe://anya.internal/client/other")

        assert (await it.progress()).creator == "spiffe://anya.internal/client/other"
