"""Work that an actor pipes to itself: outside of its turns, in as few tasks as possible."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mesh.errors import FailedPrecondition, Unavailable
from tests.mesh.actor.recording_actor import (
    Put,
    RecorderMessage,
    Recorders,
    Run,
    RunSlow,
    World,
    hold,
    pipe,
    settle,
    unavailable,
)

if TYPE_CHECKING:
    from mesh.actor import ActorContext, Piped


async def test_result_arrives_as_a_message(actors: Recorders, world: World) -> None:
    async def work() -> Put:
        await asyncio.sleep(0)
        return Put(7)

    await actors.ref(1).ask(pipe(work))
    await settle()

    assert world.received[1] == [7]


async def test_work_without_a_result_sends_nothing(actors: Recorders, world: World) -> None:
    pipes: list[Piped] = []

    async def work() -> None:
        await asyncio.sleep(0)

    await actors.ref(1).ask(pipe(work, pipes))
    assert not pipes[0].done
    await settle()

    assert pipes[0].done
    assert world.received[1] == []


async def test_chain_of_turns_and_work_runs_in_one_task(actors: Recorders) -> None:
    seen: set[object] = set()
    end = asyncio.Event()

    def link(left: int) -> Run:
        async def work() -> RecorderMessage | None:
            seen.add(asyncio.current_task())
            await asyncio.sleep(0)
            return link(left - 1)

        def begin(context: ActorContext[RecorderMessage]) -> None:
            seen.add(asyncio.current_task())
            if left:
                context.pipe_to_self(work(), name="work")
            else:
                end.set()

        return Run(begin)

    actors.ref(1).tell(link(20))
    await end.wait()

    assert len(seen) == 1


async def test_mailbox_is_open_during_the_work(actors: Recorders, world: World) -> None:
    release = asyncio.Event()

    async def work() -> Put:
        await release.wait()
        return Put(2)

    await actors.ref(1).ask(pipe(work))
    assert await actors.ref(1).ask(Put(1)) == 1
    release.set()
    await settle()

    assert world.received[1] == [1, 2]


async def test_result_waits_for_the_turn_that_began_during_the_work(
    actors: Recorders, world: World
) -> None:
    """The actor fails the test if its turns overlap."""
    works, turn = asyncio.Event(), asyncio.Event()

    async def work() -> Put:
        await works.wait()
        return Put(2)

    await actors.ref(1).ask(pipe(work))
    actors.ref(1).tell(hold(turn))
    actors.ref(1).tell(Put(1))
    await settle()
    works.set()
    await settle()
    assert world.received[1] == []
    turn.set()
    await settle()

    assert world.received[1] == [1, 2]


async def test_pieces_of_work_of_one_turn_are_performed_side_by_side(
    actors: Recorders, world: World
) -> None:
    releases = [asyncio.Event() for _ in range(3)]

    async def work(number: int) -> Put:
        await releases[number].wait()
        return Put(number)

    def begin(context: ActorContext[RecorderMessage]) -> None:
        for number in range(3):
            context.pipe_to_self(work(number), name=f"work {number}")

    await actors.ref(1).ask(Run(begin))
    for number in (2, 0, 1):
        releases[number].set()
        await settle()

    assert world.received[1] == [2, 0, 1]


async def test_cancel_of_work_that_runs_in_the_task_of_the_turn_cancels_no_turn(
    actors: Recorders, world: World
) -> None:
    pipes: list[Piped] = []
    await actors.ref(1).ask(pipe(asyncio.Event().wait, pipes))  # type: ignore[arg-type]
    await settle()
    turn = asyncio.create_task(actors.ref(1).ask(Put(1, yields=10)))
    await asyncio.sleep(0)
    pipes[0].cancel()
    pipes[0].cancel()

    assert await turn == 1
    assert world.left == []
    assert world.built == [1]


async def test_cancel_that_the_work_ignores_reaches_no_later_turn(
    actors: Recorders, world: World
) -> None:
    pipes: list[Piped] = []

    async def cancel_itself() -> Put:
        pipes[0].cancel()  # is thrown in at the next suspension, and there is none
        return Put(99)

    async def ignore() -> Put:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return Put(99)

    await actors.ref(1).ask(pipe(cancel_itself, pipes))
    actors.ref(1).tell(Put(1, yields=3))
    await settle()
    pipes.clear()
    await actors.ref(1).ask(pipe(ignore, pipes))
    await settle()
    pipes[0].cancel()
    actors.ref(1).tell(Put(2, yields=3))
    await settle()

    assert world.received[1] == [1, 2]
    assert pipes[0].done


async def test_cancel_that_the_work_ignores_does_not_reach_the_end_of_the_actor(
    actors: Recorders, world: World
) -> None:
    pipes: list[Piped] = []
    release = asyncio.Event()

    async def cancel_itself() -> None:
        await release.wait()
        pipes[0].cancel()  # is thrown in at the next suspension, and there is none

    world.stopping = lambda _: settle()
    await actors.ref(1).ask(pipe(cancel_itself, pipes))
    stop = asyncio.create_task(actors.stop(1))
    await settle()
    release.set()
    await stop

    assert world.stopped == [1]


async def test_work_that_is_cancelled_before_it_begins_is_never_performed(
    actors: Recorders,
) -> None:
    begun = []

    async def work() -> None:
        begun.append(True)

    def begin(context: ActorContext[RecorderMessage]) -> None:
        for name in ("in the task of the turn", "in a task of its own"):
            context.pipe_to_self(work(), name=name).cancel()
        pending = asyncio.get_running_loop().create_future()
        context.pipe_to_self(pending, name="future").cancel()
        assert pending.cancelled()

    await actors.ref(1).ask(Run(begin))
    await settle()

    assert not begun


@pytest.mark.parametrize("waits", [False, True], ids=["alone", "beside_a_turn"])
async def test_exception_of_work_restarts_the_actor(
    actors: Recorders, world: World, waits: bool
) -> None:
    release = asyncio.Event()

    async def work() -> None:
        await release.wait()
        raise FailedPrecondition("no refusal: work answers no message")

    await actors.ref(1).ask(pipe(work))
    turn = asyncio.create_task(actors.ref(1).ask(Put(1, yields=9))) if waits else None
    await asyncio.sleep(0)
    release.set()
    await settle()

    assert turn is None or await turn == 1
    assert world.built == [1, 1]
    assert world.stopped == [1]


async def test_results_for_a_failed_actor_do_not_reach_its_successor(
    actors: Recorders, world: World
) -> None:
    release = asyncio.Event()

    async def fail_after_the_work(context: ActorContext[RecorderMessage]) -> None:
        release.set()
        await settle()
        raise ZeroDivisionError

    async def work() -> Put:
        await release.wait()
        return Put(99)

    await actors.ref(1).ask(pipe(work))
    with pytest.raises(Unavailable):
        await actors.ref(1).ask(RunSlow(fail_after_the_work))

    assert await actors.ref(1).ask(Put(1)) == 1
    assert world.received[1] == [1]


async def test_outage_of_work_does_not_count_as_a_failure(actors: Recorders, world: World) -> None:
    async def work() -> None:
        raise unavailable()

    for _ in range(10):
        await actors.ref(1).ask(pipe(work))
        await settle()

    assert world.left == []
    assert len(world.built) == 11


async def test_work_that_awaits_a_cancelled_task_is_a_failure(
    actors: Recorders, world: World
) -> None:
    async def work() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    await actors.ref(1).ask(pipe(work))
    await settle()

    assert world.built == [1, 1]
