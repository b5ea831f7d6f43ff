"""Failures and outages of one key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mesh.actor import ActorRegistry, Supervision
from mesh.errors import (
    Unavailable,
)
from tests.mesh.actor.recording_actor import (
    Fail,
    Put,
    Recorder,
    RecorderMessage,
    Recorders,
    World,
    pass_time,
    recorders,
    settle,
    unavailable,
)

if TYPE_CHECKING:
    from mesh.actor import ActorContext
    from mesh.clock import ManualClock


async def test_failure_of_one_key_restarts_it_alone(actors: Recorders, world: World) -> None:
    await actors.ref(2).ask(Put(0))
    with pytest.raises(Unavailable):
        await actors.ref(1).ask(Fail(ZeroDivisionError()))

    assert await actors.ref(1).ask(Put(1)) == 1
    assert world.built == [2, 1, 1]
    assert world.stopped == [1]


async def test_key_that_fails_too_often_is_stopped_and_reported(
    actors: Recorders, world: World
) -> None:
    errors = [ZeroDivisionError() for _ in range(3)]
    for error in errors:
        with pytest.raises(Unavailable):
            await actors.ref(1).ask(Fail(error))
    await settle()

    assert world.left == [(1, errors[-1])]
    assert await actors.ref(1).ask(Put(1)) == 1  # activated again, its failures forgotten


async def test_messages_wait_during_the_backoff(world: World, clock: ManualClock) -> None:
    supervision = Supervision(max_restarts=5, backoff_s=1)
    async with recorders(world, clock, supervision=supervision).running() as actors:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await actors.ref(1).ask(Fail(ZeroDivisionError()))
        waiting = asyncio.create_task(actors.ref(1).ask(Put(1)))
        await settle()
        assert not waiting.done()
        clock.advance(1)

        assert await waiting == 1


async def test_outage_of_a_build_ends_the_actor_unless_messages_come(
    world: World, clock: ManualClock
) -> None:
    world.outage = unavailable()
    supervision = Supervision(backoff_s=1)
    async with recorders(world, clock, supervision=supervision).running() as actors:
        with pytest.raises(Unavailable, match="recorder 1 waits for a dependency"):
            await actors.ref(1).ask(Put(1))
        await pass_time(clock, 0.5)
        with pytest.raises(Unavailable, match="waits for a dependency"):
            await actors.ref(1).ask(Put(1))
        await pass_time(clock, 0.5)
        assert world.built == [1, 1]
        await pass_time(clock, 2)

        assert len(actors) == 0
        world.outage = None
        assert await actors.ref(1).ask(Put(1)) == 1


async def test_outage_of_an_activated_actor_is_waited_for_without_limit(
    world: World, clock: ManualClock
) -> None:
    world.outage = unavailable()
    supervision = Supervision(backoff_s=1, max_backoff_s=1)
    registry = recorders(world, clock, can_build=False, supervision=supervision)
    async with registry.running() as actors:
        ref = actors.activate(1, lambda context: world.build(1, context))
        for _ in range(1100):
            clock.advance(1)
            for _ in range(3):
                await asyncio.sleep(0)
        world.outage = None
        await pass_time(clock, 1)

        assert await ref.ask(Put(1)) == 1
    assert len(world.built) > 1000


async def test_outages_of_work_that_each_start_begins_are_waited_for_ever_longer(
    world: World, clock: ManualClock
) -> None:
    async def work() -> None:
        raise unavailable()

    async def build(key: int, context: ActorContext[RecorderMessage]) -> Recorder:
        context.pipe_to_self(work(), name="work")
        return await world.build(key, context)

    supervision = Supervision(backoff_s=1, window_s=60, max_restarts=1)
    registry = recorders(world, clock, can_build=False, supervision=supervision)
    async with registry.running() as actors:
        ref = actors.activate(1, lambda context: build(1, context))
        await settle()
        assert world.built == [1, 1]
        with pytest.raises(Unavailable, match="waits for a dependency"):
            ref.tell(Put(1))
        for restarts, delay_s in ((3, 1), (4, 2), (5, 4)):
            await pass_time(clock, delay_s - 0.5)
            assert len(world.built) == restarts - 1
            await pass_time(clock, 0.5)
            assert len(world.built) == restarts
    assert world.left == [(1, None)]


async def test_drain_does_not_wait_for_an_outage(activated: Recorders, world: World) -> None:
    world.outage = unavailable()
    activated.activate(1, lambda context: world.build(1, context))
    await settle()

    await activated.stop(1)

    assert len(activated) == 0


async def test_failure_of_the_report_is_logged(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()

    def fail(key: int, error: Exception | None) -> None:
        raise ZeroDivisionError

    actors: Recorders = ActorRegistry(world.build, name="recorder", on_stopped=fail, clock=clock)
    async with actors.running():
        await actors.ref(1).ask(Put(1))
        await actors.stop(1)

        assert len(actors) == 0
    assert "the end of recorder 1 could not be reported" in caplog.text
