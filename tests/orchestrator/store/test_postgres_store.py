"""The store that replicas share: a replica whose lease is lost commits nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.data import lease as leases
from mesh.testing import eventually
from services.orchestrator.servicers import waits
from services.orchestrator.store.commits import AppendCommit, rows_of
from services.orchestrator.store.postgres.statements import arguments, statement
from services.orchestrator.store.run_store import FencedError
from services.orchestrator.worker import pollers
from tests.orchestrator.conftest import two_replicas
from tests.orchestrator.payment_requests import finished, payment, status
from tests.orchestrator.signals import AWAITS_SIGNAL, await_status, signal_request, start_run
from tests.orchestrator.store.postgres_replicas import connected, expire, is_blocked, replica
from tests.orchestrator.store.run_stores import begin, fails

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.store.postgres.run_store import PostgresRunStore
    from tests.orchestrator.fake_services import FakeServices


@pytest.fixture
def url(new_postgres_database: str) -> str:
    return new_postgres_database


async def test_replica_with_a_lost_lease_is_fenced_and_registers_again(url: str) -> None:
    async with (
        replica(url) as (expired, registry),
        replica(url) as (successor, _),
        connected(url) as connection,
    ):
        before = expired.lease.replica_id
        ended = fails(await begin(expired, registry))
        await expire(connection, expired)
        taken = await successor.take_over()
        (run,) = await successor.claim(10)

        with pytest.raises(FencedError):
            await expired.append(ended.state, 0, ended.records)
        with pytest.raises(FencedError):
            await expired.append(ended.state, run.row.epoch, ended.records)
        await begin(expired, registry, "later")

        assert taken.replicas == (before,)
        assert taken.released == 1
        assert expired.lease.replica_id != before
        assert (await successor.load("run")).records == run.records


async def test_expired_lease_is_renewed_by_the_next_commit(url: str) -> None:
    async with replica(url) as (runs, registry), connected(url) as connection:
        ended = fails(await begin(runs, registry))
        await expire(connection, runs)

        await runs.append(ended.state, 0, ended.records)

        assert (await runs.load("run")).state == ended.state


async def test_reasons_of_a_batch_keep_every_character(url: str) -> None:
    reasons = ["", "NULL", "a, b", '{"a"}', "\\", '\\"', "\n\t", " é 😀 ", "'", "%s $1"]
    async with replica(url) as (runs, registry):
        transitions = [fails(await begin(runs, registry, f"run-{n}")) for n in range(len(reasons))]
        for transition, reason in zip(transitions, reasons, strict=True):
            transition.state.reason = reason

        await asyncio.gather(
            *(runs.append(transition.state, 0, transition.records) for transition in transitions)
        )

        stored = [await runs.load(transition.state.run_id) for transition in transitions]
    assert [run.row.reason for run in stored] == reasons
    assert [run.records[-1] for run in stored] == [
        transition.records[-1] for transition in transitions
    ]


async def test_invalid_path_fails_only_its_own_commit(url: str) -> None:
    async with replica(url) as (runs, registry):
        bad, good = [fails(await begin(runs, registry, name)) for name in ("bad", "good")]
        bad.records[-1] = bad.records[-1]._replace(path='\0","')

        refused, committed = await asyncio.gather(
            *(runs.append(transition.state, 0, transition.records) for transition in (bad, good)),
            return_exceptions=True,
        )

        assert isinstance(refused, ValueError)
        assert committed is None
        assert (await runs.load("good")).state == good.state
        assert not (await runs.load("bad")).state.finished


async def test_takeover_waits_for_a_commit_in_progress_and_sees_it(url: str) -> None:
    async with (
        replica(url) as (expired, registry),
        replica(url) as (successor, _),
        connected(url) as late,
        connected(url) as connection,
    ):
        ended = fails(await begin(expired, registry))
        lease = expired.lease
        rows = rows_of([AppendCommit(ended.state, 0, ended.records)], lease.replica_id)
        transaction = late.transaction()
        await transaction.start()
        await late.fetchrow(statement(rows), lease.replica_id, lease.incarnation, *arguments(rows))
        retire = asyncio.create_task(_retire(connection, expired))
        await eventually(lambda: is_blocked(url))
        blocked = not retire.done()
        await transaction.commit()
        await retire
        seen = await successor.load("run")

    assert blocked
    assert seen.state == ended.state


async def test_commit_during_a_takeover_changes_nothing(
    url: str,
) -> None:
    async with (
        replica(url) as (expired, registry),
        replica(url) as (successor, _),
        connected(url) as connection,
    ):
        started = await begin(expired, registry)
        ended = fails(started)
        transaction = connection.transaction()
        await transaction.start()
        await _retire(connection, expired)
        late = asyncio.create_task(expired.append(ended.state, 0, ended.records))
        await eventually(lambda: is_blocked(url))
        await transaction.commit()
        with pytest.raises(FencedError):
            await late
        seen = await successor.load("run")

    assert seen.state == started.state


async def _retire(connection: asyncpg.Connection, runs: PostgresRunStore) -> None:
    lease = runs.lease
    await connection.execute(leases.RETIRE_SELF, lease.replica_id, lease.incarnation)


async def test_starting_replica_blocks_no_transaction(url: str) -> None:
    async with replica(url) as (runs, registry), connected(url) as connection:
        await begin(runs, registry)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("DELETE FROM suspended_run")
        starting = asyncio.create_task(_open(url))
        await eventually(lambda: is_blocked(url))

        changed = await connection.execute("UPDATE run SET reason = 'seen'")
        await transaction.commit()
        await starting

    assert changed == "UPDATE 1"


async def _open(url: str) -> None:
    async with replica(url):
        pass


async def test_concurrent_claims_never_return_the_same_run(url: str) -> None:
    async with replica(url) as (one, registry), replica(url) as (other, _):
        for number in range(60):
            await begin(one, registry, f"run-{number}", owned=False, at_us=number)

        claims = await asyncio.gather(*(runs.claim(8) for runs in (one, other) * 8))

    ids = [run.row.id for claim in claims for run in claim]
    assert len(ids) == len(set(ids)) == 60
    assert all(claims[:2])


async def test_concurrent_commits_number_events_without_gaps(url: str) -> None:
    async with (
        replica(url) as (one, registry),
        replica(url) as (other, _),
        connected(url) as connection,
    ):
        await asyncio.gather(
            *(
                begin(runs, registry, f"{name}-{n}", caller=name)
                for n in range(40)
                for name, runs in (("a", one), ("b", other))
            )
        )
        numbers = [row[0] for row in await connection.fetch("SELECT sequence FROM outbox")]

    assert sorted(numbers) == list(range(1, 81))


async def test_watch_on_another_replica_is_notified_at_once(
    url: str,
    config: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(waits, "POLL_INTERVAL_S", 60.0)  # only a notification can wake it
    fakes.paused["SendPayment"] = asyncio.Event()
    request = payment()

    async with two_replicas(url, config, authority) as (workflows, others):
        await workflows.StartRun(request, timeout=5)
        watch = others.WatchRun(pb.WatchRunRequest(run_id=request.request_id), timeout=20)
        seen = [await anext(aiter(watch))]
        fakes.paused["SendPayment"].set()
        seen += [update async for update in watch]

    assert status(seen[-1].run) == "SUCCEEDED"
    assert [update.sequence for update in seen] == list(range(1, len(seen) + 1))


async def test_signal_at_another_replica_resumes_the_run_at_once(
    url: str,
    config: OrchestratorConfig,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(pollers, "POLL_INTERVAL_S", 60.0)  # only a notification can wake it

    async with two_replicas(url, config, authority) as (workflows, others):
        run_id = await start_run(workflows, AWAITS_SIGNAL)
        await await_status(workflows, run_id, "WAITING")
        await others.SignalRun(signal_request(run_id), timeout=5)
        run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
