"""Erasure of emitted events, and of the input of a deleted schedule."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anya.orchestrator.v1 import schedule_pb2
from anya.orchestrator.v1.schedule_pb2_grpc import ScheduleServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from services.orchestrator.engine.erase import MARK, TEXT_MARK
from services.orchestrator.engine.waits import ANY_SUBJECT
from services.orchestrator.store import deletion, erasure
from services.orchestrator.store.deletion import Deletion
from tests.orchestrator.conftest import dial
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.erasures import erase, get
from tests.orchestrator.event_workflows import (
    EMITTER,
    register_workflows,
    start_listener,
    start_workflow,
)
from tests.orchestrator.payment_requests import finished
from tests.orchestrator.store.event_runs import begin
from tests.orchestrator.store.run_stores import erase_run, opened_store

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.data.database import Database, Row, Transaction
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

PERSON = "did:key:z6MkSomebody"
MANY = 5

EMIT = 'emit: {type: order.paid, subject: "{{input.order}}", data: {by: "{{input.by}}"}}'
TELLS_OFTEN = steps(*(f"tell{n}\n    {EMIT}" for n in range(MANY))).replace("example", "often")
OF_ITSELF = 'tell\n    emit: {type: done, data: {of: "{{input.order}}{{input.by}}"}}'
TELLS_OF_ITSELF = steps(OF_ITSELF).replace("example", "itself")


async def emitted(database: Database) -> list[Row]:
    """Returns type, key, event subject and data of each emitted event in the outbox."""

    async def work(tx: Transaction) -> list[Row]:
        rows = await tx.fetch(
            "SELECT outbox.type, key, subject, data FROM outbox"
            " LEFT JOIN event ON event.sequence = outbox.sequence"
            " WHERE outbox.type NOT LIKE 'orchestrator.%' ORDER BY outbox.sequence"
        )
        return [(type, key, subject, json.loads(bytes(data))) for type, key, subject, data in rows]

    return await database.read(work)


async def test_events_of_an_erased_run_are_erased_and_receivers_still_fold(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    stored = replace(config, database=location)
    async with orchestrator(stored) as service, dial(authority, service.port) as channel:
        workflows = WorkflowServiceStub(channel)
        await register_workflows(workflows)
        receiver_run = await start_listener(workflows, PERSON)
        emitter_run = await start_workflow(workflows, "tell", order=PERSON, by=PERSON)
        await finished(workflows, emitter_run)
        before = await finished(workflows, receiver_run)

        await erase(workflows, emitter_run)
        after = await get(workflows, receiver_run)
        await erase(workflows, receiver_run, "another")
        erased = await get(workflows, receiver_run)

    async with opened_store(location) as (store, _):
        left = await emitted(store.database)

    assert left == [("order.paid", TEXT_MARK, TEXT_MARK, MARK)]
    assert after == before
    assert PERSON in str(before)
    assert PERSON not in str(erased)


async def test_file_holds_no_personal_data_of_an_erased_event(
    config: OrchestratorConfig, authority: Authority, tmp_path: Path
) -> None:
    run_ids, found = [], []
    for erases in (False, True):
        async with orchestrator(config) as service, dial(authority, service.port) as channel:
            workflows = WorkflowServiceStub(channel)
            await register_workflows(workflows)
            run_ids.append(await start_workflow(workflows, "tell", order=PERSON, by=PERSON))
            await finished(workflows, run_ids[-1])
            for run_id in run_ids if erases else ():
                await erase(workflows, run_id, run_id)
        found.append(_contains_the_person(tmp_path))

    assert found == [True, False]


def _contains_the_person(folder: Path) -> bool:
    stored = b"".join(path.read_bytes() for path in sorted(folder.rglob("orchestrator.db*")))
    return PERSON.encode() in stored


async def test_event_keeps_its_subject_if_that_is_the_run(location: str) -> None:
    async with opened_store(location) as (store, registry):
        await registry.register(TELLS_OF_ITSELF)
        state = await begin(store.runs, registry, "itself", "7")

        await erase_run(store, state.run_id)

        assert await emitted(store.database) == [("done", state.run_id, state.run_id, MARK)]


@pytest.mark.parametrize("chunk", [1, 2, MANY])
async def test_erasure_covers_every_event_of_the_run_and_no_other(
    location: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "ERASE_BATCH_SIZE", chunk)
    async with opened_store(location) as (store, registry):
        for text in (EMITTER, TELLS_OFTEN):
            await registry.register(text)
        often = await begin(store.runs, registry, "often", PERSON)
        await begin(store.runs, registry, "tell", "7")

        await erase_run(store, often.run_id)

        erased = ("order.paid", TEXT_MARK, TEXT_MARK, MARK)
        kept = ("order.paid", "7", "7", {"by": "Ada"})
        assert await emitted(store.database) == [*[erased] * MANY, kept]


async def test_subscriber_receives_an_erased_event_without_data(
    location: str,
) -> None:
    async with opened_store(location) as (store, registry):
        await registry.register(EMITTER)
        state = await begin(store.runs, registry, "tell", PERSON)
        await erase_run(store, state.run_id)

        of_any, _ = await store.runs.events.read_after(0, {"order.paid": {ANY_SUBJECT}})
        of_one, _ = await store.runs.events.read_after(0, {"order.paid": {PERSON}})

    assert [(event.subject, event.data) for event in of_any] == [(TEXT_MARK, MARK)]
    assert of_one == []


@pytest.mark.parametrize("at_once", [2, 500])
async def test_events_of_a_deleted_run_are_erased(
    location: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "MAX_RECORDS", at_once)
    async with opened_store(location) as (store, registry):
        await registry.register(TELLS_OFTEN)
        await begin(store.runs, registry, "often", PERSON)

        deleting = Deletion(store.database)
        while await deleting.delete_some(1):
            pass

        assert await emitted(store.database) == [("order.paid", TEXT_MARK, None, MARK)] * MANY
        assert await events_of(store.database) == 0


async def events_of(database: Database) -> int:
    async def work(tx: Transaction) -> int:
        row = await tx.fetch_one("SELECT COUNT(*) FROM event")
        assert row
        return int(row[0])

    return await database.read(work)


async def test_file_holds_no_input_of_a_deleted_schedule(
    config: OrchestratorConfig, authority: Authority, tmp_path: Path
) -> None:
    found = []
    for deletes in (False, True):
        async with orchestrator(config) as service, dial(authority, service.port) as channel:
            await register_workflows(WorkflowServiceStub(channel))
            schedules = ScheduleServiceStub(channel)
            if deletes:
                request = schedule_pb2.DeleteScheduleRequest(
                    request_id="delete", schedule_id="yearly"
                )
                await schedules.DeleteSchedule(request, timeout=5)
            else:
                await schedules.CreateSchedule(yearly(), timeout=5)
        found.append(_contains_the_person(tmp_path))

    assert found == [True, False]


def yearly() -> schedule_pb2.CreateScheduleRequest:
    request = schedule_pb2.CreateScheduleRequest(request_id="create")
    given = {"order": PERSON, "by": "Ada"}
    asked = {"schedule_id": "yearly", "workflow_id": "tell", "input": given}
    values.fill(request, asked | {"interval": f"{365 * 86_400}s"})
    return request
