"""The run store on both databases: nothing is stored twice, or by a former owner."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mesh.data import outbox
from mesh.data.database import open_database
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import AlreadyExists, FailedPrecondition, NotFound, Reason
from services.orchestrator import definition
from services.orchestrator.engine.activations import Recovered, Started
from services.orchestrator.engine.model import RunState, RunStatus
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.transition import Transition
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store import SCHEMA
from services.orchestrator.store.open import open_store
from services.orchestrator.store.run_query import RunFilter
from services.orchestrator.store.run_store import FencedError
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.store.run_stores import POLICY, ask_to_start, begin, fails, opened_runs

if TYPE_CHECKING:
    from services.orchestrator.store.commits import NewRun
    from services.orchestrator.store.definitions import StoredDefinition


async def test_appended_records_survive_reopening(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        ended = fails(await begin(runs, registry))
        await runs.append(ended.state, 0, ended.records)

    async with opened_runs(location) as (runs, _):
        stored = await runs.load("run")

    assert stored.state == ended.state
    assert stored.row.status == RunStatus.FAILED
    assert stored.row.reason == "identity: INVALID_ARGUMENT: said the service"


async def test_load_after_returns_only_later_records(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        started = await begin(runs, registry)
        ended = fails(started)
        await runs.append(ended.state, 0, ended.records)

        later = await runs.load_after("run", sequence=len(started.records))
        none_later = await runs.load_after("run", sequence=ended.state.sequence)

    assert later.records == tuple(ended.records)
    assert none_later.records == ()
    assert none_later.row.status == RunStatus.FAILED


async def test_appending_again_changes_nothing(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        ended = fails(await begin(runs, registry))

        await runs.append(ended.state, 0, ended.records)
        await runs.append(ended.state, 0, ended.records)

        assert (await runs.load("run")).state == ended.state


async def test_former_owner_cannot_append(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        ended = fails(await begin(runs, registry))

    async with opened_runs(location) as (runs, _):
        (taken,) = await runs.claim(10)

        with pytest.raises(FencedError):
            await runs.append(ended.state, 0, ended.records)

        recovered = Transition(ended.workflow, taken.state, POLICY, 2_000_000, 0)
        recovered.apply(Recovered())
        await runs.append(recovered.state, taken.row.epoch, recovered.records)
        assert (await runs.load("run")).state.recoveries == 1


async def test_two_transitions_from_one_state_cannot_both_be_stored(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        started = await begin(runs, registry)
        one, other = fails(started, "INVALID_ARGUMENT"), fails(started, "UNAVAILABLE")
        await runs.append(one.state, 0, one.records)

        with pytest.raises(FencedError):
            await runs.append(other.state, 0, other.records)

        assert (await runs.load("run")).state == one.state


async def test_claimable_runs_are_claimed_once_oldest_first(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        for number in (3, 1, 2):
            await begin(runs, registry, f"run-{number}", owned=False, at_us=number)

        first, second = await runs.claim(2), await runs.claim(2)

    assert [stored.row.id for stored in first] == ["run-1", "run-2"]
    assert [stored.row.id for stored in second] == ["run-3"]


async def test_run_whose_start_lost_its_answer_is_claimed(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        await begin(runs, registry, "held")
        await begin(runs, registry, "lost")

        await runs.release_lost(lambda: {"held"})

        assert [stored.row.id for stored in await runs.claim(10)] == ["lost"]


async def test_repeated_start_does_not_own_a_run_that_was_claimed(
    location: str,
) -> None:
    async with opened_runs(location) as (runs, registry):
        first = await begin(runs, registry, owned=False)
        [claimed] = await runs.claim(1)
        driven = Transition(first.workflow, claimed.state, POLICY, 1_000_001, 0)
        driven.apply(Started())
        await runs.append(driven.state, claimed.row.epoch, driven.records)

        late, started = await ask_to_start(runs, registry, owned=True, at_us=1_000_002)

        assert late.state.sequence == driven.state.sequence
        assert not started.created


# The damaged run has two records: its start, and the intent of its first step.
DAMAGES = {
    "no JSON": "UPDATE journal SET payload = ? WHERE run = 'hurt' AND sequence = 2",
    "a field gone": "UPDATE journal SET payload = ? WHERE run = 'hurt' AND sequence = 1",
    "the tail gone": "DELETE FROM journal WHERE run = 'hurt' AND sequence = 2 AND payload <> ?",
    "the head gone": "DELETE FROM journal WHERE run = 'hurt' AND sequence = 1 AND payload <> ?",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_unreadable_run_is_set_aside_and_blocks_no_other(location: str, damage: str) -> None:
    async with opened_runs(location) as (runs, registry):
        await begin(runs, registry, "hurt", at_us=1)
        await begin(runs, registry, "sound", at_us=2)
    async with open_database(location, schema=SCHEMA) as database:
        left = b"{}" if damage == "a field gone" else b"{"
        await database.write(lambda tx: tx.execute(DAMAGES[damage], left))

    async with opened_runs(location) as (runs, _):
        claimed = await runs.claim(10)
        waiting = await runs.claim(10)
        (row,) = (await runs.query.page(RunFilter(statuses=("NEEDS_ATTENTION",)), limit=10)).rows
        with pytest.raises(FailedPrecondition) as refusal:
            await runs.load("hurt")

    assert [stored.row.id for stored in claimed] == ["sound"]
    assert waiting == []
    assert row.id == "hurt"
    assert row.reason == str(refusal.value)
    assert refusal.value.reason == Reason.STORE_DAMAGED


async def test_run_that_was_set_aside_has_ended_once_readable(location: str) -> None:
    async with open_store(location) as opened:
        registry = WorkflowRegistry(opened.definitions)
        await registry.register_built_in()
        whole = await begin(opened.runs, registry, "hurt", owned=False)
        put = "UPDATE journal SET payload = ? WHERE run = 'hurt' AND sequence = 1"
        await opened.database.write(lambda tx: tx.execute(put, b"{"))
        claimed = await opened.runs.claim(10)

        await opened.database.write(lambda tx: tx.execute(put, whole.records[0].encoded))
        repaired = await opened.runs.load("hurt")

    assert claimed == []
    assert repaired.state.finished
    assert repaired.state.status == repaired.row.status == "NEEDS_ATTENTION"
    assert "damaged" in repaired.state.reason


async def test_another_caller_cannot_start_the_same_run(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        await begin(runs, registry)

        with pytest.raises(AlreadyExists):
            await begin(runs, registry, caller="spiffe://another")


async def test_refused_start_stores_nothing(location: str) -> None:
    async with opened_runs(location) as (runs, _):

        def refuse(stored: StoredDefinition) -> NewRun:
            raise NotFound("not today")

        key = IdempotencyKey("spiffe://caller", "StartRun", "run", b"body")
        with pytest.raises(NotFound, match="not today"):
            await runs.start(key, "assess_fraud_risk", refuse, lambda new: b"")

        assert (await runs.query.page(RunFilter(), limit=10)).rows == ()


async def test_commits_of_a_batch_fail_alone(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        ended = [fails(await begin(runs, registry, f"run-{n}")) for n in range(3)]
        late = Record.write(8, RecordKind.RECOVERED, "", 0, 2_000_000, {})
        conflicting = replace(ended[1].state, sequence=9), replace(ended[2].state, reason="\ud800")

        outcomes = await asyncio.gather(
            runs.append(ended[0].state, 0, ended[0].records),
            runs.append(conflicting[0], 0, [late]),  # at another sequence
            runs.append(conflicting[1], 0, ended[2].records),  # a text that cannot be stored
            *(begin(runs, registry, f"run-{n}", caller=f"spiffe://{n % 2}") for n in (2, 3, 5)),
            return_exceptions=True,
        )
        page = await runs.query.page(RunFilter(), limit=10)

    kinds = [None if isinstance(o, Transition) else o and type(o) for o in outcomes]
    assert kinds[:2] == [None, FencedError]
    assert isinstance(outcomes[2], Exception)
    assert kinds[3:] == [AlreadyExists, None, None]
    assert {row.id: row.status for row in page.rows} == {
        "run-0": "FAILED",
        **dict.fromkeys(["run-1", "run-2", "run-3", "run-5"], "RUNNING"),
    }


async def test_batch_of_many_runs_numbers_every_event(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        started = await asyncio.gather(*(begin(runs, registry, f"run-{n}") for n in range(150)))
        ended = [fails(transition) for transition in started]
        await asyncio.gather(
            *(runs.append(transition.state, 0, transition.records) for transition in ended)
        )
        states = [(await runs.load(transition.state.run_id)).state for transition in ended]
    async with open_database(location, schema=SCHEMA) as database:
        events = await database.read(lambda tx: outbox.read(tx, after=0, limit=1000))

    assert states == [transition.state for transition in ended]
    assert [event.sequence for event in events] == list(range(1, 301))
    assert Counter(event.key for event in events) == dict.fromkeys((s.run_id for s in states), 2)


async def test_run_starts_with_the_newest_definition_despite_the_cache(
    location: str,
) -> None:
    async with opened_runs(location) as (runs, registry):
        older = await registry.register(steps("one\n    set: {a: 1}"))
        await begin(runs, registry, "before", workflow_id="example")
        newer = await registry.register(steps("one\n    set: {a: 2}"))

        await begin(runs, registry, "after", workflow_id="example")

        started = [(await runs.load(run_id)).row for run_id in ("before", "after")]
    assert [row.definition_hash for row in started] == [older.hash, newer.hash]


async def test_run_keeps_the_definitions_it_started_with(location: str) -> None:
    async with open_store(location) as store:
        definitions = store.definitions
        registry = WorkflowRegistry(definitions)
        await registry.register_built_in()
        shipped = definition.load(definition.built_in_text("assess_fraud_risk"))
        older_text = definition.built_in_text("assess_fraud_risk").replace(
            '"Assess the risk of a payment"', '"An older release"'
        )
        older = definition.load(older_text)
        await definitions.register(older, older_text)
        state = _state_of_a_payment({"assess_fraud_risk": older.hash})

        workflow = await registry.pinned(state)

    assert workflow.sub_workflow_hashes == {"assess_fraud_risk": older.hash}
    assert shipped.hash != older.hash


def _state_of_a_payment(composites: dict[str, str]) -> RunState:
    paying = definition.load(definition.built_in_text("verified_payment"))
    return RunState(
        "run", workflow_id=paying.id, definition_hash=paying.hash, sub_workflow_hashes=composites
    )
