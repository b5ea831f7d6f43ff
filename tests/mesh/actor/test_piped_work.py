"""Work that an actor pipes to itself: outside of its turns, in as few tasks as possible."""

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
    hold,
    pass_time,
    pipe,
    recorders,
    settle,
    tasks,
    unavailable,
)

if TYPE_CHECKING:
    from mesh.actor import ActorContext, Piped
    from mesh.clock import ManualClock


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
