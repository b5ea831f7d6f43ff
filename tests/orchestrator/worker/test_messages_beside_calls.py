"""Messages to a run during its only call: they take effect at once, on both stores."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mesh.data.idempotency import IdempotencyKey
from mesh.testing import eventually
from services.orchestrator.engine.activations import CancelRequested, SignalReceived
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.engine.start import StartRun
from services.orchestrator.store.run_store import FencedError
from tests.orchestrator.engine.definitions import STORE, UNDO, call, steps
from tests.orchestrator.schedules.schedule_replica import replica

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.store.commits import Envelope
    from services.orchestrator.store.messages import Message
    from tests.orchestrator.fake_services import FakeServices
    from tests.orchestrator.schedules.schedule_replica import Replica

LOOKS = steps(call("look"), call("keep", STORE))
KEEPS = steps(call("keep", STORE, UNDO), call("look"))
ASKS = steps(call("look"), "answer\n    wait_for: {signal: approved}")
READS, KEEP = "ExtractIdentityFeatures", "StoreTransactionRecord"
CANCEL = CancelRequested("enough", "spiffe://caller")
SIGNAL = SignalReceived("approved", {}, "")


@pytest.fixture
async def here(location: str, config: OrchestratorConfig) -> AsyncIterator[Replica]:
    """Configuration with a long timeout: every call ends by its reply or by a cancel."""
    patient = replace(config.policy, attempt_timeout_s=60.0, step_timeout_s=60.0)
    async with replica(replace(config, policy=patient), location) as here:
        yield here


@pytest.fixture
def answers(fakes: FakeServices) -> asyncio.Event:
    """Lets all paused calls return."""
    fakes.paused = dict.fromkeys((READS, KEEP), asyncio.Event())
    return fakes.paused[READS]


def key(method: str, request_id: str) -> IdempotencyKey:
    return IdempotencyKey("spiffe://caller", method, request_id, b"")


async def begin(here: Replica, fakes: FakeServices, text: str) -> None:
    """Starts a run and waits until its first call is in flight."""
    await here.registry.register(text)
    request = StartRun("run", {"did": "d"}, None, "", "spiffe://caller")
    await here.worker.start(key("StartRun", "run"), "example", request, "", lambda _: b"")
    await eventually(lambda: bool(fakes.calls))


async def send(here: Replica, message: Message, request_id: str = "m") -> None:
    await here.worker.inbox.send(key("Send", request_id), "run", message)


async def kinds(here: Replica) -> list[RecordKind]:
    return [record.kind for record in (await here.store.runs.load("run")).records]


async def end(here: Replica) -> RunState:
    await eventually(lambda: here.store.runs.has_ended("run"))
    return (await here.store.runs.load("run")).state


@pytest.mark.usefixtures("answers")
async def test_cancel_during_a_read_ends_the_run_without_its_reply(
    here: Replica, fakes: FakeServices
) -> None:
    await begin(here, fakes, LOOKS)

    await send(here, CANCEL)
    state = await end(here)

    assert state.status is RunStatus.CANCELLED
    assert len(fakes.calls) == 1


async def test_cancel_during_a_call_with_an_effect_is_stored_before_its_reply(
    here: Replica, fakes: FakeServices, answers: asyncio.Event
) -> None:
    async def is_journalled() -> bool:
        return RecordKind.CANCEL_RUN in await kinds(here)

    await begin(here, fakes, KEEPS)

    await send(here, CANCEL)
    await eventually(is_journalled)
    answers.set()
    state = await end(here)

    assert state.status is RunStatus.COMPENSATED
    assert {step.attempt for step in state.steps.values()} == {1}
    assert [method for method, _ in fakes.calls] == [KEEP, KEEP]


async def test_each_signal_during_a_call_is_stored_before_its_reply(
    here: Replica, fakes: FakeServices, answers: asyncio.Event
) -> None:
    await begin(here, fakes, ASKS)

    for number in (1, 2, 3):
        await send(here, SIGNAL, f"s{number}")

        async def is_journalled(number: int = number) -> bool:
            return (await kinds(here)).count(RecordKind.SIGNAL) == number

        await eventually(is_journalled)
    answers.set()
    state = await end(here)

    assert state.status is RunStatus.SUCCEEDED
    assert [method for method, _ in fakes.calls] == [READS]


async def test_reply_of_a_call_waits_for_the_transition_of_an_earlier_message(
    here: Replica, fakes: FakeServices, answers: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, may_store = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        stored.set()
        await may_store.wait()

    await begin(here, fakes, KEEPS)
    before_a_cancel(here, monkeypatch, hold)

    sent = asyncio.create_task(send(here, CANCEL))
    await stored.wait()
    answers.set()
    await eventually(lambda: fakes.effects[KEEP] == 1)
    may_store.set()
    await sent
    state = await end(here)

    assert state.status is RunStatus.COMPENSATED
    found = await kinds(here)
    assert found.index(RecordKind.CANCEL_RUN) < found.index(RecordKind.STEP_DONE)


@pytest.mark.usefixtures("answers")
async def test_former_owner_drops_the_run_when_a_message_beside_a_call_is_fenced(
    here: Replica, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose() -> None:
        raise FencedError("run")

    await begin(here, fakes, LOOKS)
    before_a_cancel(here, monkeypatch, lose)

    await send(here, CANCEL)
    await eventually(lambda: not here.worker.drives("run"))

    assert RecordKind.CANCEL_RUN not in await kinds(here)


@pytest.mark.usefixtures("answers")
async def test_worker_that_lost_its_lease_stores_no_messages(
    here: Replica, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking, ended = asyncio.Event(), asyncio.Event()

    async def take_long() -> None:
        taking.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    await begin(here, fakes, LOOKS)
    before_a_cancel(here, monkeypatch, take_long)

    sent = asyncio.create_task(send(here, CANCEL))
    await taking.wait()
    here.worker.drop_all_runs()
    await eventually(ended.is_set)
    await sent

    assert RecordKind.CANCEL_RUN not in await kinds(here)


def before_a_cancel(
    here: Replica, monkeypatch: pytest.MonkeyPatch, first: Callable[[], Any]
) -> None:
    """Calls ``first`` before a cancel is stored with its transition."""
    deliver = here.store.runs.deliver

    async def later(
        state: RunState, epoch: int, records: Sequence[Record], envelope: Envelope
    ) -> bool:
        if any(record.kind is RecordKind.CANCEL_RUN for record in records):
            await first()
        return await deliver(state, epoch, records, envelope)

    monkeypatch.setattr(here.store.runs, "deliver", later)
