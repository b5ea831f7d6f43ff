"""Deletion of old runs and erasure of personal data, on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from mesh.data.idempotency import IdempotencyKey
from mesh.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from services.orchestrator.engine import request_checks
from services.orchestrator.engine.activations import SignalReceived
from services.orchestrator.engine.erase import MARK, TEXT_MARK
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.start import StartRun, start
from services.orchestrator.store import deletion, erasure
from services.orchestrator.store.commits import NewRun
from services.orchestrator.store.deletion import Deletion
from services.orchestrator.store.erasure import Erasure
from services.orchestrator.store.run_store import StartResult
from tests.orchestrator.store.run_stores import (
    CALLER,
    GIVEN,
    POLICY,
    begin,
    erase_run,
    fails,
    mutation_key,
    opened_store,
)

if TYPE_CHECKING:
    from mesh.data.database import Database, Transaction
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.store.definitions import StoredDefinition
    from services.orchestrator.store.open import OrchestratorStore

DAY_US = 86_400_000_000


async def end_run(
    store: OrchestratorStore,
    registry: WorkflowRegistry,
    run_id: str = "run",
    *,
    days_ago: float = 100,
) -> None:
    """Stores a run that failed so many days ago by the database's clock."""
    now_us = await now(store.database)
    at_us = now_us - int(days_ago * DAY_US)
    ended = fails(await begin(store.runs, registry, run_id, at_us=at_us))
    await store.runs.append(ended.state, 0, ended.records)


async def now(database: Database) -> int:
    async def work(tx: Transaction) -> int:
        return await tx.now_ms() * 1000

    return await database.read(work)


async def set_needs_attention(store: OrchestratorStore, run_id: str, status: str) -> None:
    async def work(tx: Transaction) -> None:
        await tx.execute("UPDATE run SET status = ? WHERE id = ?", status, run_id)

    await store.database.write(work)


async def rows_of(database: Database, table: str) -> set[str]:
    async def work(tx: Transaction) -> set[str]:
        return {str(row[0]) for row in await tx.fetch(f"SELECT run FROM {table}")}  # noqa: S608

    return await database.read(work)


async def delete_all(store: OrchestratorStore, days: float) -> None:
    deleting = Deletion(store.database)
    while await deleting.delete_some(days):
        pass


async def erase_all(store: OrchestratorStore, days: float) -> None:
    erasing = Erasure(store.database)
    while due := await erasing.enqueue_erasures(days):
        for run_id in due:
            await erasing.finish(run_id)


async def test_deleted_run_is_reported_as_deleted(location: str) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry)
        await delete_all(store, days=30)

        asked = [
            store.runs.load("run"),
            store.runs.has_ended("run"),
            store.runs.messages.send(
                mutation_key("cancel"), "run", request_checks.cancel("", CALLER), b""
            ),
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)

    assert [getattr(answer, "reason", answer) for answer in answers] == [Reason.RUN_DELETED] * 3


async def test_old_runs_are_deleted_with_all_their_rows(
    location: str,
) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry, "old", days_ago=31)
        await end_run(store, registry, "young", days_ago=29)
        await begin(store.runs, registry, "busy")

        await delete_all(store, days=30)

        assert (await store.runs.load("young")).row.status == "FAILED"
        assert (await store.runs.load("busy")).row.status == "RUNNING"
        with pytest.raises(NotFound, match=r"'old' was deleted by retention on 20") as gone:
            await store.runs.load("old")
        assert gone.value.reason == Reason.RUN_DELETED
        assert await rows_of(store.database, "journal") == {"young", "busy"}


async def test_more_runs_than_one_batch_are_all_deleted(location: str) -> None:
    count = 2 * deletion.DELETE_BATCH_SIZE + 3
    async with opened_store(location) as (store, registry):
        for number in range(count):
            await end_run(store, registry, f"run-{number}", days_ago=40)

        await delete_all(store, days=30)

        assert await rows_of(store.database, "journal") == set()


async def test_run_with_many_records_is_deleted_in_parts(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "MAX_RECORDS", 2)
    async with opened_store(location) as (store, registry):
        await end_run(store, registry, "large", days_ago=40)
        deleting = Deletion(store.database)

        first = await deleting.delete_some(30)
        left = await rows_of(store.database, "journal")
        with pytest.raises(NotFound):
            await store.runs.load("large")
        while await deleting.delete_some(30):
            pass

        assert first
        assert left == {"large"}
        assert await rows_of(store.database, "journal") == set()


@pytest.mark.parametrize("status", ["NEEDS_ATTENTION", "COMPENSATION_FAILED"])
async def test_run_that_needs_an_operator_is_neither_deleted_nor_erased_by_age(
    location: str, status: str
) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry, "kept")
        await set_needs_attention(store, "kept", status)
        await end_run(store, registry, "other")

        await erase_all(store, days=1)
        await delete_all(store, days=1)

        assert (await store.runs.load("kept")).state.input == GIVEN
        assert await rows_of(store.database, "journal") == {"kept"}


async def test_repeated_start_of_a_deleted_run_gets_its_first_reply(
    location: str,
) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry, "old")
        await delete_all(store, days=30)

        def prepare(stored: StoredDefinition) -> NewRun:
            request = StartRun("old", GIVEN, None, "", CALLER)
            workflow = registry.newest(stored)
            transition = start(workflow, request, POLICY, network="regtest", at_us=1, jitter=0)
            return NewRun(transition.state, tuple(transition.records), CALLER, "", owned=True)

        started = await store.runs.start(
            IdempotencyKey(CALLER, "StartRun", "old", b"body"),
            "assess_fraud_risk",
            prepare,
            lambda new: b"another",
        )

        assert started == StartResult(b"old", created=False)
        with pytest.raises(NotFound, match="deleted by retention"):
            await store.runs.load("old")


async def test_id_of_a_deleted_run_cannot_be_used_again(location: str) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry, "old")
        await delete_all(store, days=30)

        with pytest.raises(AlreadyExists):
            await begin(store.runs, registry, "old", caller="spiffe://another")

        assert await rows_of(store.database, "journal") == set()


async def test_erased_run_folds_to_the_same_run_without_personal_data(
    location: str,
) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry)
        before = await store.runs.load("run")

        erased_us = await erase_run(store)
        after = await store.runs.load("run")

    state, step = after.state, after.state.steps["identity"]
    assert state.erased_us == erased_us
    assert state.input == MARK
    assert (state.status, state.finished_us) == ("FAILED", before.state.finished_us)
    assert state.reason == after.row.reason == "identity: INVALID_ARGUMENT"
    assert step.error is not None
    assert (step.error.code, step.error.message) == ("INVALID_ARGUMENT", TEXT_MARK)
    assert step.input == dict.fromkeys(before.state.steps["identity"].input, MARK)
    assert [(r.kind, r.path, r.at_us) for r in after.records[:-1]] == [
        (r.kind, r.path, r.at_us) for r in before.records
    ]


async def test_run_is_erased_once_and_shows_when(location: str) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry)

        first = await erase_run(store)
        again = await erase_run(store)
        by_another = await erase_run(store, request_id="another")

        assert first == again == by_another
        kinds = [record.kind for record in (await store.runs.load("run")).records]
        assert kinds.count(RecordKind.ERASED) == 1


async def test_run_that_has_not_ended_is_not_erased(location: str) -> None:
    async with opened_store(location) as (store, registry):
        started = await begin(store.runs, registry)

        with pytest.raises(FailedPrecondition) as refused:
            await erase_run(store)
        with pytest.raises(NotFound):
            await erase_run(store, "nothing", "other")

        assert refused.value.reason == Reason.RUN_NOT_ENDED
        assert (await store.runs.load("run")).state == started.state


async def test_messages_to_an_erased_run_are_erased(location: str) -> None:
    async with opened_store(location) as (store, registry):
        started = await begin(store.runs, registry)
        sent = SignalReceived("approved", {"by": "did:key:z6MkPerson"}, "did:key:z6MkPerson")
        await store.runs.messages.send(mutation_key("signal"), "run", sent)
        ended = fails(started)
        await store.runs.append(ended.state, 0, ended.records)

        await erase_run(store)

        (left,) = await store.runs.messages.read_after("run", position=0)
        assert left == SignalReceived("approved", dict(MARK), TEXT_MARK, position=1)


async def test_runs_are_erased_by_age(location: str) -> None:
    count = erasure.ENQUEUE_BATCH_SIZE + 2
    async with opened_store(location) as (store, registry):
        for number in range(count):
            await end_run(store, registry, f"old-{number}", days_ago=8)
        await end_run(store, registry, "young", days_ago=6)

        await erase_all(store, days=7)

        for number in range(count):
            assert (await store.runs.load(f"old-{number}")).state.erased_us
        assert (await store.runs.load("young")).state.input == GIVEN


@pytest.mark.parametrize("replaced", [0, 1, 2, 3, 4])
async def test_interrupted_erasure_is_completed(
    location: str, replaced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has three records, and the record of the erasure."""
    monkeypatch.setattr(erasure, "ERASE_BATCH_SIZE", 1)
    async with opened_store(location) as (store, registry):
        await end_run(store, registry)
        write, writes = store.database.write, 0

        async def break_off(work: object) -> object:
            nonlocal writes
            writes += 1
            if writes > 1 + replaced:
                raise KeyboardInterrupt
            return await write(work)  # type: ignore[arg-type]

        monkeypatch.setattr(store.database, "write", break_off)
        with pytest.raises(KeyboardInterrupt):
            await erase_run(store)
        monkeypatch.undo()

    async with opened_store(location) as (store, _):
        found = await Erasure(store.database).pending_erasures()
        for run_id in found:
            await Erasure(store.database).finish(run_id)

        left = await Erasure(store.database).pending_erasures()
        stored = await store.runs.load("run")

    assert found == ["run"]
    assert left == []
    assert stored.state.input == MARK
    assert stored.row.reason == stored.state.reason == "identity: INVALID_ARGUMENT"


DAMAGES = {
    "a record gone": "DELETE FROM journal WHERE sequence = 2 AND payload <> ?",
    "no JSON": "UPDATE journal SET payload = ? WHERE sequence = 2",
    "an intent that is no message": "UPDATE journal SET payload = ? WHERE sequence = 1",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_unreadable_records_are_erased_whole(location: str, damage: str) -> None:
    async with opened_store(location) as (store, registry):
        await end_run(store, registry)
        start = (await store.runs.load("run")).records[0].payload
        raw = json.dumps(start | {"intent": "//8="}).encode() if "intent" in damage else b"?"
        await store.database.write(lambda tx: tx.execute(DAMAGES[damage], raw))

        await erase_run(store)

        async def payloads(tx: Transaction) -> set[bytes]:
            return {bytes(row[0]) for row in await tx.fetch("SELECT payload FROM journal")}

        assert await store.database.read(payloads) == {b'{"erased": true}'}


async def test_unreadable_message_is_erased_whole(location: str) -> None:
    async with opened_store(location) as (store, registry):
        started = await begin(store.runs, registry)
        await store.runs.messages.send(
            mutation_key("signal"), "run", SignalReceived("approved", {}, "")
        )
        ended = fails(started)
        await store.runs.append(ended.state, 0, ended.records)
        damage = "UPDATE message SET payload = ?"
        await store.database.write(lambda tx: tx.execute(damage, b"did:key:z6MkPerson"))

        await erase_run(store)

        async def left(tx: Transaction) -> list[bytes]:
            return [bytes(row[0]) for row in await tx.fetch("SELECT payload FROM message")]

        assert await store.database.read(left) == [b'{"erased": true}']
        assert await Erasure(store.database).pending_erasures() == []
