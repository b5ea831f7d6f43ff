"""Messages stored with the transition they lead to: both or neither, however many are sent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mesh.data.idempotency import IdempotencyKey
from mesh.errors import ResourceExhausted
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.engine.activations import CancelRequested, SignalReceived
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.start import StartRun
from services.orchestrator.store import messages
from services.orchestrator.store.run_store import FencedError
from services.orchestrator.worker import pollers
from tests.orchestrator.conftest import connect, two_replicas
from tests.orchestrator.engine.definitions import STORE, call, steps
from tests.orchestrator.payment_requests import finished, status
from tests.orchestrator.schedules.schedule_replica import Replica, replica
from tests.orchestrator.signals import await_status, signal_request, start_run
from tests.orchestrator.store.run_stores import begin, opened_runs
from tests.orchestrator.worker.deliveries import CALLER, applied, deliver, signal_key, signal_named

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

SENDERS = 20


async def test_message_is_stored_once_with_its_transition_and_reply(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        started = await begin(runs, registry)

        first = await deliver(runs, started, signal_named("one", 1), signal_key("a"))
        again = await deliver(runs, started, signal_named("one", 1), signal_key("a"))
        stored = await runs.load("run")
        waiting = await runs.messages.read_after("run", position=0)
        answer = await runs.messages.send(signal_key("a"), "run", signal_named("one"))
        behind = await runs.messages.read_after("run", position=1)

    assert (first, again) == (True, True)
    assert stored.state == applied(started, signal_named("one", 1)).state
    assert waiting == [signal_named("one", 1)]
    assert (answer.reply, behind) == (b"reply", [])


@pytest.mark.parametrize("hindrance", ["another", "same key", "too many"])
async def test_refused_message_leaves_no_transition(
    location: str, hindrance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_runs(location) as (runs, registry):
        started = await begin(runs, registry)
        await begin(runs, registry, "other")
        if hindrance == "another":
            await runs.messages.send(signal_key("b"), "run", signal_named("two"))
        if hindrance == "same key":
            await runs.messages.send(signal_key("a"), "other", signal_named("one"))
        if hindrance == "too many":
            monkeypatch.setattr(messages, "MAX_SIGNALS", 0)
        sent = await runs.messages.read_after("run", position=0)

        delivered = await deliver(runs, started, signal_named("one", 1), signal_key("a"))

        assert not delivered
        assert (await runs.load("run")).state == started.state
        assert await runs.messages.read_after("run", position=0) == sent
        if hindrance != "same key":
            assert await runs.messages.first_reply(signal_key("a")) is None


async def test_refused_message_does_not_affect_the_others_of_its_commit(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        started = [await begin(runs, registry, f"run-{number}") for number in range(6)]
        await runs.messages.send(signal_key("before"), "run-3", signal_named("two"))

        delivered = await asyncio.gather(
            *(
                deliver(
                    runs,
                    transition,
                    signal_named("one", 1),
                    signal_key("a" if number < 2 else f"a{number}"),
                )
                for number, transition in enumerate(started)
            )
        )

        counts = [
            len(await runs.messages.read_after(transition.state.run_id, position=0))
            for transition in started
        ]
    assert sorted(delivered[:2]) == [False, True]  # of the same key
    assert delivered[2:] == [True, False, True, True]
    assert [counts[0] + counts[1], *counts[2:]] == [1] * 5


async def test_former_owner_of_a_run_cannot_deliver_to_it(location: str) -> None:
    async with opened_runs(location) as (runs, registry):
        started = await begin(runs, registry)

    async with opened_runs(location) as (runs, _):
        await runs.claim(10)

        with pytest.raises(FencedError):
            await deliver(runs, started, signal_named("one", 1), signal_key("a"))
        assert await runs.messages.read_after("run", position=0) == []


@asynccontextmanager
async def waiting_run(config: OrchestratorConfig, location: str, waits: int) -> AsyncIterator[Any]:
    """Starts a run that waits for ``waits`` signals, and yields the replica that drives it."""
    async with replica(config, location) as here:
        names = (f"s{number}\n    wait_for: {{signal: approved}}" for number in range(waits))
        await here.registry.register(steps(*names))
        request = StartRun("run", {}, None, "", CALLER)
        await here.worker.start(
            IdempotencyKey(CALLER, "StartRun", "run", b""), "example", request, "", lambda _: b""
        )
        yield here


async def sequence(here: Replica) -> int:
    return (await here.store.runs.load("run")).state.sequence


async def send(here: Replica, request_id: str, name: str = "approved") -> bytes:
    return await here.worker.inbox.send(
        signal_key(request_id), "run", SignalReceived(name, {}, ""), b"reply"
    )


async def test_sender_is_answered_after_the_transition_is_stored(
    location: str, config: OrchestratorConfig
) -> None:
    async with waiting_run(config, location, 2) as here:
        for number in range(2):
            reply = await send(here, f"a{number}")

            state = (await here.store.runs.load("run")).state
            assert reply == b"reply"
            assert state.inbox_position == number + 1
        assert state.status == RunStatus.SUCCEEDED


async def test_messages_of_many_senders_count_once_each(
    location: str, config: OrchestratorConfig
) -> None:
    async with waiting_run(config, location, SENDERS) as here:
        twice = [f"a{number}" for number in range(SENDERS)] * 2

        await asyncio.gather(*(send(here, request_id) for request_id in twice))

        await eventually(lambda: here.store.runs.has_ended("run"))
        stored = await here.store.runs.load("run")
    taken = [one.payload["position"] for one in stored.records if one.kind is RecordKind.SIGNAL]
    assert stored.state.status == RunStatus.SUCCEEDED
    assert taken == list(range(1, SENDERS + 1))


async def test_messages_of_many_senders_at_two_replicas_count_once_each(
    new_postgres_database: str, config: OrchestratorConfig, tmp_path: Path
) -> None:
    elsewhere = replace(config, mesh=replace(config.mesh, home=tmp_path / "elsewhere"))
    async with (
        waiting_run(config, new_postgres_database, SENDERS) as here,
        replica(elsewhere, new_postgres_database) as there,
    ):
        ids = [f"a{number}" for number in range(SENDERS)]

        await asyncio.gather(*(send(at, request_id) for request_id in ids for at in (here, there)))

        await eventually(lambda: here.store.runs.has_ended("run"))
        stored = await here.store.runs.load("run")
        sent = await here.store.runs.messages.read_after("run", position=0)
    taken = [one.payload["position"] for one in stored.records if one.kind is RecordKind.SIGNAL]
    assert stored.state.status == RunStatus.SUCCEEDED
    assert taken == list(range(1, SENDERS + 1))
    assert len(sent) == SENDERS


async def test_run_with_the_most_signals_can_still_be_cancelled(
    location: str, config: OrchestratorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "MAX_SIGNALS", 2)
    async with waiting_run(config, location, 3) as here:
        for request_id in ("a", "b"):
            await send(here, request_id)

        with pytest.raises(ResourceExhausted):
            await send(here, "c")
        await send(here, "a")  # again
        await here.worker.inbox.send(signal_key("d"), "run", CancelRequested("enough", "who"))

        await eventually(lambda: here.store.runs.has_ended("run"))
        state = (await here.store.runs.load("run")).state
    assert (state.status, state.inbox_position) == (RunStatus.CANCELLED, 3)


async def test_key_used_with_another_body_is_refused(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    waits = steps(*(f"s{number}\n    wait_for: {{signal: approved}}" for number in range(2)))
    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        run_id, other = [await start_run(workflows, waits) for _ in range(2)]
        await workflows.SignalRun(signal_request(run_id, "used"), timeout=5)

        for one in (run_id, other):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await workflows.SignalRun(signal_request(one, "used", "another"), timeout=5)
            assert reason(caught.value) == "REQUEST_ID_REUSED"
        for one, request_id in ((run_id, "a"), (other, "b"), (other, "c")):
            await workflows.SignalRun(signal_request(one, request_id), timeout=5)
        runs = [await finished(workflows, one) for one in (run_id, other)]

    assert {status(run) for run in runs} == {"SUCCEEDED"}


async def test_signal_during_a_call_is_answered_before_the_call(
    location: str, config: OrchestratorConfig, authority: Authority, fakes: FakeServices
) -> None:
    fakes.paused["StoreTransactionRecord"] = asyncio.Event()
    both = steps(call("keep", STORE), "answer\n    wait_for: {signal: approved}")
    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        run_id = await start_run(workflows, both, did="d")
        await eventually(lambda: bool(fakes.requests("StoreTransactionRecord")))

        await workflows.SignalRun(signal_request(run_id), timeout=1)
        fakes.paused["StoreTransactionRecord"].set()

        assert status(await finished(workflows, run_id)) == "SUCCEEDED"


@pytest.mark.parametrize(
    "size", [10, 10_000], ids=["in the notification", "too large for a notification"]
)
async def test_message_sent_at_another_replica_is_received_at_once(
    new_postgres_database: str,
    config: OrchestratorConfig,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    monkeypatch.setattr(pollers, "POLL_INTERVAL_S", 60.0)  # so that only a notification wakes it
    async with two_replicas(new_postgres_database, config, authority) as (workflows, others):
        run_id = await start_run(workflows, steps("answer\n    wait_for: {signal: approved}"))
        await await_status(workflows, run_id, "WAITING")
        sent = signal_request(run_id)
        sent.payload.update({"text": "Zoë  said 1 2\n" + "x" * size})

        await others.SignalRun(sent, timeout=5)

        run = await finished(workflows, run_id)

    assert run.steps[0].output["payload"] == sent.payload
