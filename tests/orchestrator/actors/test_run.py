"""The actor of a run, as its senders see it: each message counts once, whatever it races with."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mesh.data.idempotency import IdempotencyKey
from mesh.errors import FailedPrecondition, Reason, Unavailable
from mesh.testing import eventually
from services.orchestrator.actors import run
from services.orchestrator.engine.activations import SignalReceived
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.start import StartRun
from services.orchestrator.engine.transition import Transition
from services.orchestrator.store.postgres.run_store import PostgresRunStore
from services.orchestrator.store.sqlite.run_store import SqliteRunStore
from services.orchestrator.worker import store_retry, worker
from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.schedules.schedule_replica import replica
from tests.orchestrator.worker.deliveries import CALLER, signal_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.activations import Activation
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.store.commits import Envelope
    from services.orchestrator.store.run_store import RunStore, StartResult
    from services.orchestrator.store.stored_run import StoredRun
    from tests.orchestrator.fake_services import FakeServices
    from tests.orchestrator.schedules.schedule_replica import Replica

KEEP = "StoreTransactionRecord"
SIGNALS = 20
KEEPS = steps(call("keep", STORE), call("look"))


def waits_for(signals: int) -> str:
    names = (f"s{number}\n    wait_for: {{signal: approved}}" for number in range(signals))
    return steps(*names)


@pytest.fixture
async def here(location: str, config: OrchestratorConfig) -> AsyncIterator[Replica]:
    async with replica(config, location) as here:
        yield here


async def start(here: Replica, text: str) -> None:
    await here.registry.register(text)
    request = StartRun("run", {"did": "d"} if text is KEEPS else {}, None, "", CALLER)
    key = IdempotencyKey(CALLER, "StartRun", "run", b"")
    await here.worker.start(key, "example", request, "", lambda _: b"")


async def send(here: Replica, request_id: str) -> bytes:
    signal = SignalReceived("approved", {}, "")
    return await here.worker.inbox.send(signal_key(request_id), "run", signal, b"reply")


async def kinds(here: Replica) -> list[RecordKind]:
    return [record.kind for record in (await here.store.runs.load("run")).records]


async def ended(here: Replica) -> RunState:
    await eventually(lambda: here.store.runs.has_ended("run"))
    return (await here.store.runs.load("run")).state


async def test_run_that_starts_while_lost_runs_are_released_keeps_its_owner(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, released = asyncio.Event(), asyncio.Event()

    for kind in (SqliteRunStore, PostgresRunStore):

        async def release_later(
            runs: RunStore,
            held: Callable[[], Collection[str]],
            release: Any = kind.release_lost,
        ) -> None:
            await started.wait()
            await release(runs, held)
            released.set()

        monkeypatch.setattr(kind, "release_lost", release_later)
    async with replica(config, location) as here:
        await start(here, waits_for(2))
        started.set()
        await released.wait()
        await send(here, "a")

        stored = await here.store.runs.load("run")

    assert stored.state.inbox_position == 1  # by its actor, in the commit of the message


async def test_start_is_answered_although_its_run_is_claimed_before_it_ends(
    here: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, calls, first_may_store = here.store.runs, 0, asyncio.Event()
    start_run, claim, claimed = runs.start, runs.claim, asyncio.Event()

    async def start_later(*arguments: Any) -> StartResult:
        nonlocal calls
        calls += 1
        if calls == 1:
            await first_may_store.wait()
        return await start_run(*arguments)

    async def note_claim(limit: int) -> list[StoredRun]:
        if found := await claim(limit):
            claimed.set()
        return found

    monkeypatch.setattr(runs, "start", start_later)
    monkeypatch.setattr(runs, "claim", note_claim)
    first = asyncio.create_task(start(here, waits_for(1)))
    await eventually(lambda: calls == 1)

    await start(here, waits_for(1))  # the same run, which it does not own
    await claimed.wait()
    first_may_store.set()
    await first
    await send(here, "a")

    assert (await ended(here)).status is RunStatus.SUCCEEDED


async def test_two_senders_with_one_key_are_answered_alike_and_counted_once(here: Replica) -> None:
    await start(here, waits_for(2))

    replies = await asyncio.gather(*(send(here, "same") for _ in range(2)))

    assert replies == [b"reply", b"reply"]
    assert (await kinds(here)).count(RecordKind.SIGNAL) == 1


async def test_signals_that_race_suspensions_count_once_each_in_order(
    here: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SUSPEND_THRESHOLD_S", 0.0)
    monkeypatch.setattr(worker, "IDLE_TIMEOUT_S", 0.0)
    await start(here, waits_for(SIGNALS))

    for number in range(SIGNALS // 2):
        # The run is suspended at any moment before, between and after these.
        await asyncio.gather(send(here, f"a{number}"), send(here, f"b{number}"))

    state = await ended(here)
    records = (await here.store.runs.load("run")).records
    taken = [one.payload["position"] for one in records if one.kind is RecordKind.SIGNAL]
    assert state.status is RunStatus.SUCCEEDED
    assert state.recoveries == 0
    assert taken == list(range(1, SIGNALS + 1))


async def test_sender_fails_if_the_store_does_not_answer_and_its_message_counts_once(
    here: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_retry, "STORE_RETRY_DELAY_S", 0.01)
    deliver, failures = here.store.runs.deliver, 2

    async def fails_at_first(
        state: RunState, epoch: int, records: Sequence[Record], envelope: Envelope
    ) -> bool:
        nonlocal failures
        stored = await deliver(state, epoch, records, envelope)  # its answer is lost
        failures -= 1
        if failures >= 0:
            raise Unavailable("no answer", reason=Reason.STORE_UNAVAILABLE)
        return stored

    await start(here, waits_for(2))
    monkeypatch.setattr(here.store.runs, "deliver", fails_at_first)

    with pytest.raises(Unavailable):
        await send(here, "a")
    assert await send(here, "a") == b"reply"
    assert await send(here, "b") == b"reply"

    state = await ended(here)
    assert (state.status, state.inbox_position) == (RunStatus.SUCCEEDED, 2)


async def test_result_of_a_call_in_flight_at_a_stop_is_stored_and_nothing_begins_after_it(
    location: str, config: OrchestratorConfig, fakes: FakeServices
) -> None:
    answers = fakes.paused[KEEP] = asyncio.Event()
    patient = replace(config, policy=replace(config.policy, attempt_timeout_s=60.0))
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(replica(patient, location))
        await start(here, KEEPS)
        await eventually(lambda: bool(fakes.calls))

        stopping = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)  # it has begun
        answers.set()
        await stopping

    assert [method for method, _ in fakes.calls] == [KEEP]
    async with replica(patient, location) as later:
        state = await ended(later)
    assert state.status is RunStatus.SUCCEEDED
    assert state.steps["keep"].attempt == 1


async def test_call_that_waits_for_others_at_a_stop_is_made_by_the_next_process(
    location: str, config: OrchestratorConfig, fakes: FakeServices
) -> None:
    answers = fakes.paused[KEEP] = asyncio.Event()
    patient = replace(
        config, max_concurrent_steps=1, policy=replace(config.policy, attempt_timeout_s=60.0)
    )
    both = ("run", "other")
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(replica(patient, location))
        await here.registry.register(steps(call("keep", STORE)))
        for run_id in both:
            request = StartRun(run_id, {"did": "d"}, None, "", CALLER)
            key = IdempotencyKey(CALLER, "StartRun", run_id, b"")
            await here.worker.start(key, "example", request, "", lambda _: b"")
        await eventually(lambda: bool(fakes.calls))

        stopping = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)  # it has begun
        answers.set()
        await stopping

    assert len(fakes.calls) == 1
    async with replica(patient, location) as later:
        for run_id in both:
            await eventually(partial(later.store.runs.has_ended, run_id))
    assert len(fakes.calls) == 2


async def test_message_during_a_stop_is_stored_and_taken_by_the_next_process(
    location: str, config: OrchestratorConfig, fakes: FakeServices
) -> None:
    answers = fakes.paused[KEEP] = asyncio.Event()
    both = steps(call("keep", STORE), "answer\n    wait_for: {signal: approved}")
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(replica(config, location))
        await here.registry.register(both)
        request = StartRun("run", {"did": "d"}, None, "", CALLER)
        key = IdempotencyKey(CALLER, "StartRun", "run", b"")
        await here.worker.start(key, "example", request, "", lambda _: b"")
        await eventually(lambda: bool(fakes.calls))

        stopping = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)  # it has begun
        reply = await send(here, "a")
        answers.set()
        await stopping

    assert reply == b"reply"
    async with replica(config, location) as later:
        state = await ended(later)
    assert (state.status, state.inbox_position) == (RunStatus.SUCCEEDED, 1)


async def test_lost_lease_during_a_commit_discards_the_results_of_calls(
    here: Replica, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, storing = here.store.runs.append, asyncio.Event()

    async def hang(state: RunState, epoch: int, records: Sequence[Record]) -> None:
        if any(record.kind is RecordKind.STEP_DONE for record in records):
            storing.set()
            await asyncio.Event().wait()
        await append(state, epoch, records)

    monkeypatch.setattr(here.store.runs, "append", hang)
    await start(here, KEEPS)
    await storing.wait()

    here.worker.drop_all_runs()
    await eventually(lambda: not here.worker.drives("run"))

    assert RecordKind.STEP_DONE not in await kinds(here)
    assert [method for method, _ in fakes.calls] == [KEEP]


async def test_defect_in_the_transition_of_a_message_ends_its_run_alone(
    here: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = Transition.apply

    def fail(self: Transition, activation: Activation) -> None:
        apply(self, activation)
        if isinstance(activation, SignalReceived):
            raise ZeroDivisionError

    await start(here, waits_for(1))
    monkeypatch.setattr(Transition, "apply", fail)

    with pytest.raises(FailedPrecondition) as refused:
        await send(here, "a")

    state = await ended(here)
    assert refused.value.reason == Reason.RUN_ENDED
    assert state.status is RunStatus.NEEDS_ATTENTION
    assert RecordKind.SIGNAL not in await kinds(here)
