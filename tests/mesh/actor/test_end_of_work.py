"""Piped work when its actor ends: cancelled, awaited by a drain, or given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mesh.actor import Supervision
from mesh.errors import FailedPrecondition, Reason, Unavailable
from tests.mesh.actor.recording_actor import (
    Fail,
    Put,
    RecorderMessage,
    Recorders,
    Run,
    World,
    pass_time,
    pipe,
    recorders,
    settle,
    tasks,
)

if TYPE_CHECKING:
    from mesh.actor import ActorContext
    from mesh.clock import ManualClock


@pytest.mark.parametrize("end", ["passivate", "stop", "fail", "leave"])
async def test_work_is_cancelled_when_the_actor_ends(
    actors: Recorders, world: World, clock: ManualClock, end: str
) -> None:
    cancelled = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(len(world.stopped))
            raise

    def begin(context: ActorContext[RecorderMessage]) -> None:
        for number in range(3):
            context.pipe_to_self(work(), name=f"work {number}")

    await actors.ref(1).ask(Run(begin))
    await settle()
    match end:
        case "passivate":
            await pass_time(clock)
        case "stop":
            await actors.stop(1, drain=False)
        case "fail":
            with pytest.raises(Unavailable):
                await actors.ref(1).ask(Fail(ZeroDivisionError()))
        case _:
            await actors.ref(1).ask(Run(lambda context: context.stop()))
    await settle()

    assert cancelled == [0, 0, 0]  # before on_stop
    assert world.stopped == [1]
    assert not {name for name in tasks() if "work" in name}


async def test_drain_waits_for_work_but_not_for_a_daemon(actors: Recorders, world: World) -> None:
    release = asyncio.Event()

    async def work() -> Put:
        await release.wait()
        return Put(1)

    def begin(context: ActorContext[RecorderMessage]) -> None:
        context.pipe_to_self(work(), name="work")
        context.pipe_to_self(asyncio.Event().wait(), name="timer", daemon=True)  # type: ignore[arg-type]

    await actors.ref(1).ask(Run(begin))
    stop = asyncio.create_task(actors.stop(1))
    await settle()
    assert not stop.done()
    release.set()
    await stop

    assert world.received[1] == [1]
    assert world.left == [(1, None)]


async def test_work_cannot_wait_for_the_drain_of_its_actor(actors: Recorders) -> None:
    refusals: list[FailedPrecondition] = []

    async def work() -> None:
        try:
            await actors.stop(1)
        except FailedPrecondition as refusal:
            refusals.append(refusal)

    await actors.ref(1).ask(pipe(work))
    await settle()

    assert [refusal.reason for refusal in refusals] == [Reason.ASK_CYCLE]


async def test_context_of_an_actor_that_has_left_pipes_nothing(
    actors: Recorders, world: World
) -> None:
    contexts: list[ActorContext[RecorderMessage]] = []
    await actors.ref(1).ask(Run(contexts.append))
    with pytest.raises(Unavailable):
        await actors.ref(1).ask(Fail(ZeroDivisionError()))
    await settle()

    async def work() -> Put:
        return Put(99)

    with pytest.raises(Unavailable) as refusal:
        contexts[0].pipe_to_self(work(), name="late")
    contexts[0].stop()
    await settle()

    assert refusal.value.reason is Reason.ACTOR_STOPPED
    assert world.received[1] == []
    assert world.left == []


async def test_work_that_ignores_its_cancellation_is_given_up(
    world: World, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def work() -> Put:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return Put(99)

    supervision = Supervision(stop_timeout_s=0.01)
    async with recorders(world, clock, supervision=supervision).running() as actors:
        await actors.ref(1).ask(pipe(work))
        await settle()
        await actors.stop(1, drain=False)
        assert world.left == [(1, None)]
        assert "did not end within 0.01 s" in caplog.text
        await actors.ref(1).ask(Put(1))
        release.set()
        await settle()

    assert world.received[1] == [1]
