"""Passivation: when an idle actor leaves memory, and the messages that race it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from mesh.actor import ActorPassivatedError, ActorRegistry
from tests.mesh.actor.recording_actor import (
    Put,
    Recorder,
    Recorders,
    Run,
    World,
    pass_time,
    pipe,
    recorders,
    settle,
    tasks,
    unavailable,
)

if TYPE_CHECKING:
    from mesh.clock import ManualClock


async def test_idle_actor_leaves_no_task_and_no_memory(
    actors: Recorders, world: World, clock: ManualClock
) -> None:
    found: list[weakref.ref[Recorder]] = []
    await actors.ref(1).ask(Run(lambda context: found.append(weakref.ref(context._cell._actor))))  # type: ignore[union-attr]
    await settle()
    assert tasks() == {"passivate recorder"}

    await pass_time(clock)
    gc.collect()

    assert len(actors) == 0
    assert actors.find(1) is None
    assert found[0]() is None
    assert world.left == [(1, None)]
    assert world.stopped == [1]
    assert tasks() == set()


async def test_message_restarts_the_idle_time(actors: Recorders, clock: ManualClock) -> None:
    await actors.ref(1).ask(Put(1))
    await pass_time(clock, 6)
    await actors.ref(1).ask(Put(2))
    await pass_time(clock, 6)

    assert len(actors) == 1
    await pass_time(clock, 6)
    assert len(actors) == 0


async def test_actor_that_refuses_to_passivate_stays(
    actors: Recorders, world: World, clock: ManualClock
) -> None:
    world.may_passivate = False
    await actors.ref(1).ask(Put(1))
    await pass_time(clock)
    assert len(actors) == 1

    world.may_passivate = True
    await pass_time(clock)
    assert len(actors) == 0


async def test_outage_during_passivation_keeps_the_actor(
    actors: Recorders, world: World, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: int) -> None:
        raise unavailable()

    world.passivating = fail
    await actors.ref(1).ask(Put(1))
    await pass_time(clock)

    assert len(actors) == 1
    assert world.built == [1]
    assert "recorder 1 stays in memory: the store is unavailable" in caplog.text
    world.passivating = None
    await pass_time(clock)
    assert len(actors) == 0


async def test_defect_of_passivate_restarts_the_actor(
    actors: Recorders, world: World, clock: ManualClock
) -> None:
    async def fail(_: int) -> None:
        world.passivating = None
        raise ZeroDivisionError

    world.passivating = fail
    await actors.ref(1).ask(Put(1))
    await pass_time(clock)

    assert world.built == [1, 1]
    assert len(actors) == 1


@pytest.mark.parametrize("hook", ["passivating", "stopping"])
async def test_message_that_races_the_passivation_activates_the_actor_again(
    actors: Recorders, world: World, clock: ManualClock, hook: str
) -> None:
    reached, release = asyncio.Event(), asyncio.Event()

    async def wait(_: int) -> None:
        reached.set()
        await release.wait()

    setattr(world, hook, wait)
    await actors.ref(1).ask(Put(1))
    await pass_time(clock)
    await reached.wait()
    late = [asyncio.create_task(actors.ref(1).ask(Put(n))) for n in (2, 3)]
    await settle()
    assert world.received[1] == [1]
    release.set()

    assert await asyncio.gather(*late) == [2, 3]
    assert world.built == [1, 1]
    assert world.left == []


async def test_drain_during_the_passivation_receives_what_was_accepted_before_it(
    actors: Recorders, world: World, clock: ManualClock
) -> None:
    release = asyncio.Event()
    world.passivating = lambda _: release.wait()
    await actors.ref(1).ask(Put(1))
    await pass_time(clock)
    actors.ref(1).tell(Put(2))
    stop = asyncio.create_task(actors.stop(1))
    await settle()
    with pytest.raises(ActorPassivatedError):
        actors.ref(1).tell(Put(3))
    release.set()

    await stop
    assert world.received[1] == [1, 2]
    assert world.left == [(1, None)]


async def test_exit_during_the_passivation_receives_what_was_accepted_before_it(
    world: World, clock: ManualClock
) -> None:
    release = asyncio.Event()
    world.passivating = lambda _: release.wait()
    async with recorders(world, clock).running() as actors:
        await actors.ref(1).ask(Put(1))
        await pass_time(clock)
        actors.ref(1).tell(Put(2))
        asyncio.get_running_loop().call_soon(release.set)

    assert world.received[1] == [1, 2]
    assert world.left == [(1, None)]


async def test_message_that_races_the_passivation_is_rejected_if_nothing_can_build_the_actor(
    activated: Recorders, world: World, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()
    world.passivating = lambda _: release.wait()
    ref = activated.activate(1, lambda context: world.build(1, context))
    await pass_time(clock)
    late = asyncio.create_task(ref.ask(Put(1)))
    ref.tell(Put(2))
    await settle()
    release.set()

    with pytest.raises(ActorPassivatedError):
        await late
    assert "dead letter: recorder 1 did not receive" in caplog.text
    assert world.received[1] == []


async def test_result_of_work_that_races_the_passivation_is_dropped(
    actors: Recorders, world: World, clock: ManualClock
) -> None:
    release, passivates = asyncio.Event(), asyncio.Event()

    async def work() -> Put:
        await release.wait()
        return Put(99)

    async def passivate(_: int) -> None:
        release.set()
        await settle()
        passivates.set()

    world.passivating = passivate
    await actors.ref(1).ask(pipe(work))
    await pass_time(clock)
    await passivates.wait()
    await actors.ref(1).ask(Put(1))

    assert world.received[1] == [1]


async def test_message_that_comes_before_the_passivation_begins_is_received(
    activated: Recorders, world: World
) -> None:
    ref = activated.activate(1, lambda context: world.build(1, context))
    await settle()
    activated._directory.cells[1].passivate()

    assert await ref.ask(Put(1)) == 1
    assert world.left == []


async def test_idle_timeout_may_depend_on_the_actor(world: World, clock: ManualClock) -> None:
    timeouts: list[float | None] = [None, 0.05]

    def timeout(actor: Recorder) -> float | None:
        return timeouts.pop(0)

    actors: Recorders = ActorRegistry(
        world.build, name="recorder", idle_timeout_s=timeout, clock=clock
    )
    async with actors.running():
        await actors.ref(1).ask(Put(1))
        await pass_time(clock, 1000)
        assert len(actors) == 1

        await actors.ref(1).ask(Put(2))
        await pass_time(clock, 0.07)
        assert len(actors) == 0


async def test_earlier_timeout_is_not_delayed_by_a_later_one(
    world: World, clock: ManualClock
) -> None:
    timeouts = [60.0, 0.05]
    registry: Recorders = ActorRegistry(
        world.build, name="recorder", idle_timeout_s=lambda _: timeouts.pop(0), clock=clock
    )
    async with registry.running() as actors:
        await actors.ref(1).ask(Put(1))
        await settle()
        await actors.ref(2).ask(Put(1))
        await pass_time(clock, 0.07)

        assert actors.keys() == (1,)
