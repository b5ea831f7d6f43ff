"""Stop of one actor or of all: drained, at once, or by the actor itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mesh.actor import ActorPassivatedError, Supervision
from mesh.errors import (
    FailedPrecondition,
    Reason,
    Unavailable,
)
from tests.mesh.actor.recording_actor import (
    Put,
    RecorderMessage,
    Recorders,
    Run,
    RunSlow,
    World,
    hold,
    pipe,
    recorders,
    settle,
    tasks,
)

if TYPE_CHECKING:
    from mesh.actor import ActorContext, Piped
    from mesh.clock import ManualClock


async def test_drain_receives_what_waits_and_refuses_later_messages(
    actors: Recorders, world: World
) -> None:
    release = asyncio.Event()
    actors.ref(1).tell(hold(release))
    waiting = asyncio.create_task(actors.ref(1).ask(Put(1)))
    await settle()
    stop = asyncio.create_task(actors.stop(1))
    await settle()

    with pytest.raises(ActorPassivatedError):
        actors.ref(1).tell(Put(2))
    release.set()

    assert await waiting == 1
    await stop
    assert world.left == [(1, None)]
    assert await actors.ref(1).ask(Put(3)) == 3  # activated again


async def test_stop_without_drain_cancels_the_turn_and_fails_all_asks(
    actors: Recorders, world: World
) -> None:
    current = asyncio.create_task(actors.ref(1).ask(hold(asyncio.Event())))
    await settle()
    waiting = asyncio.create_task(actors.ref(1).ask(Put(1)))
    await settle()

    await actors.stop(1, drain=False)

    with pytest.raises(Unavailable) as stopped:
        await current
    assert not isinstance(stopped.value, ActorPassivatedError)  # it may have had an effect
    with pytest.raises(ActorPassivatedError):
        await waiting
    assert world.left == [(1, None)]
    assert world.stopped == [1]


async def test_stop_ends_a_build_that_never_returns(actors: Recorders, world: World) -> None:
    world.building = lambda _: asyncio.Event().wait()
    waiting = asyncio.create_task(actors.ref(1).ask(Put(1)))
    await settle()

    await actors.stop(1, drain=False)

    with pytest.raises(ActorPassivatedError):
        await waiting
    assert len(actors) == 0
    world.building = None
    assert await actors.ref(1).ask(Put(2)) == 2


async def test_stop_before_the_first_step_of_the_actor_leaves_nothing(
    actors: Recorders, world: World
) -> None:
    waiting = asyncio.create_task(actors.ref(1).ask(Put(1)))
    await asyncio.sleep(0)

    await actors.stop(1, drain=False)

    with pytest.raises(ActorPassivatedError):
        await waiting
    assert world.built == []
    assert len(actors) == 0


async def test_stop_waits_for_a_turn_that_ignores_its_cancellation(
    actors: Recorders, world: World
) -> None:
    release = asyncio.Event()

    async def ignore(_: ActorContext[RecorderMessage]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()

    pipes: list[Piped] = []
    actors.ref(1).tell(pipe(release.wait, pipes))  # type: ignore[arg-type]
    actors.ref(1).tell(RunSlow(ignore))
    await settle()
    stop = asyncio.create_task(actors.stop(1, drain=False))
    await settle()
    assert not stop.done()
    assert pipes[0].done
    assert actors.find(1) is not None
    release.set()

    await stop
    assert len(actors) == 0


async def test_actor_cannot_wait_for_its_own_drain(actors: Recorders) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        await actors.ref(1).ask(RunSlow(lambda _: actors.stop(1)))

    assert refusal.value.reason is Reason.ASK_CYCLE
    assert await actors.ref(1).ask(Put(1)) == 1


async def test_actor_that_stops_itself_leaves_after_the_turn(
    actors: Recorders, world: World
) -> None:
    assert await actors.ref(1).ask(Run(lambda context: context.stop())) is None
    await settle()

    assert world.left == [(1, None)]
    assert world.stopped == [1]


async def test_messages_behind_a_stop_activate_the_actor_again(
    actors: Recorders, world: World
) -> None:
    stop = asyncio.create_task(actors.ref(1).ask(Run(lambda context: context.stop())))
    late = asyncio.create_task(actors.ref(1).ask(Put(1)))

    assert await late == 1
    await stop
    assert world.built == [1, 1]


async def test_exception_in_on_stop_is_logged(
    actors: Recorders, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: int) -> None:
        raise ZeroDivisionError

    world.stopping = fail
    await actors.ref(1).ask(Put(1))
    await actors.stop(1)

    assert world.left == [(1, None)]
    assert "recorder 1 did not stop in order" in caplog.text


async def test_on_stop_that_never_returns_is_given_up(
    world: World, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    world.stopping = lambda _: asyncio.Event().wait()
    supervision = Supervision(stop_timeout_s=0.01)
    async with recorders(world, clock, supervision=supervision).running() as actors:
        await actors.ref(1).ask(Put(1))
        await actors.stop(1)

    assert world.left == [(1, None)]
    assert "did not stop in order" in caplog.text


@pytest.mark.parametrize("slow", ["work", "on_stop"])
async def test_stop_at_once_of_an_actor_that_is_leaving_lets_its_on_stop_end(
    actors: Recorders, world: World, slow: str
) -> None:
    release = asyncio.Event()

    async def ends_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await release.wait()

    if slow == "work":
        await actors.ref(1).ask(pipe(ends_late))
    else:
        world.stopping = lambda _: release.wait()
    await actors.ref(1).ask(Run(lambda context: context.stop()))
    await settle()
    stop = asyncio.create_task(actors.stop(1, drain=False))
    await settle()
    release.set()

    await stop
    assert world.stopped == [1]


async def test_exit_drains_all_actors_and_refuses_later_messages(
    world: World, clock: ManualClock
) -> None:
    async with recorders(world, clock).running() as actors:
        for key in range(5):
            for number in range(5):
                actors.ref(key).tell(Put(number, yields=1))

    assert world.received == {key: [0, 1, 2, 3, 4] for key in range(5)}
    assert sorted(world.left) == [(key, None) for key in range(5)]
    assert tasks() == set()
    with pytest.raises(ActorPassivatedError):
        actors.ref(1).tell(Put(5))
    with pytest.raises(ActorPassivatedError):
        actors.activate(1, lambda context: world.build(1, context))


async def test_exit_stops_what_does_not_end_within_the_grace(
    world: World, clock: ManualClock
) -> None:
    async with recorders(world, clock).running(grace_s=0.01) as actors:
        held = asyncio.create_task(actors.ref(1).ask(hold(asyncio.Event())))
        await settle()

    with pytest.raises(Unavailable):
        await held
    assert world.left == [(1, None)]
    assert tasks() == set()


async def test_cancelled_exit_stops_all_actors_at_once(world: World, clock: ManualClock) -> None:
    async def serve() -> None:
        async with recorders(world, clock).running(grace_s=60) as actors:
            actors.ref(1).tell(hold(asyncio.Event()))
            await settle()

    server = asyncio.create_task(serve())
    await settle()
    await settle()
    server.cancel()
    await settle()

    assert server.cancelled()
    assert world.left == [(1, None)]
