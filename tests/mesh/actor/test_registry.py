"""Keyed actors: activation at the first message, and turns."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest

from mesh.actor import ActorPassivatedError, Supervision
from mesh.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Reason,
    ResourceExhausted,
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
)

if TYPE_CHECKING:
    from mesh.actor import ActorContext
    from mesh.clock import ManualClock


async def test_first_message_activates_the_actor_once(actors: Recorders, world: World) -> None:
    assert await asyncio.gather(*(actors.ref(1).ask(Put(n)) for n in range(5))) == [0, 1, 2, 3, 4]

    assert world.built == [1]
    assert world.received[1] == [0, 1, 2, 3, 4]


async def test_message_to_an_inactive_key_is_refused_if_nothing_can_build_it(
    activated: Recorders,
) -> None:
    with pytest.raises(ActorPassivatedError, match="recorder 1 is not active") as refusal:
        await activated.ref(1).ask(Put(0))
    with pytest.raises(ActorPassivatedError):
        activated.ref(1).tell(Put(0))

    assert refusal.value.reason is Reason.ACTOR_STOPPED
    assert activated.find(1) is None


async def test_activate_starts_an_actor_without_a_message(
    activated: Recorders, world: World
) -> None:
    ref = activated.activate(1, lambda context: world.build(1, context))
    await settle()

    assert world.built == [1]
    assert activated.find(1) == ref == activated.ref(1)
    assert activated.keys() == (1,)
    assert await ref.ask(Put(7)) == 7


async def test_activate_refuses_a_key_that_is_active(actors: Recorders, world: World) -> None:
    await actors.ref(1).ask(Put(0))

    with pytest.raises(AlreadyExists, match="recorder 1 is active"):
        actors.activate(1, lambda context: world.build(1, context))


async def test_activation_beyond_the_limit_is_refused(world: World, clock: ManualClock) -> None:
    async with recorders(world, clock, max_active=2).running() as actors:
        for key in (1, 2):
            await actors.ref(key).ask(Put(0))

        with pytest.raises(ResourceExhausted):
            await actors.ref(3).ask(Put(0))
        await actors.stop(1)

        assert await actors.ref(3).ask(Put(5)) == 5


async def test_slow_key_does_not_delay_others(actors: Recorders) -> None:
    release = asyncio.Event()
    held = asyncio.create_task(actors.ref(1).ask(hold(release)))

    assert await actors.ref(2).ask(Put(1)) == 1
    release.set()

    assert await held


async def test_long_mailbox_lets_others_run(world: World, clock: ManualClock) -> None:
    supervision = Supervision(mailbox_size=1000)
    async with recorders(world, clock, supervision=supervision).running() as actors:
        for number in range(1000):
            actors.ref(1).tell(Put(number))
        await actors.ref(2).ask(Put(0))

        assert 0 < len(world.received[1]) < 1000


async def test_chain_of_work_that_never_waits_lets_others_run(actors: Recorders) -> None:
    is_over = False

    async def link() -> RecorderMessage | None:
        return None if is_over else pipe(link)

    actors.ref(1).tell(pipe(link))

    assert await actors.ref(2).ask(Put(0)) == 0
    is_over = True


async def test_full_mailbox_refuses_and_drops_nothing(actors: Recorders, world: World) -> None:
    release = asyncio.Event()
    actors.ref(1).tell(hold(release))
    await settle()
    for number in range(8):
        actors.ref(1).tell(Put(number))

    with pytest.raises(ResourceExhausted) as refusal:
        actors.ref(1).tell(Put(8))
    release.set()
    await settle()

    assert refusal.value.reason is Reason.MAILBOX_FULL
    assert world.received[1] == list(range(8))


async def test_ask_whose_deadline_passed_is_skipped(actors: Recorders, world: World) -> None:
    release = asyncio.Event()
    actors.ref(1).tell(hold(release))

    with pytest.raises(DeadlineExceeded, match=r"recorder 1 did not answer in 0\.001 s"):
        await actors.ref(1).ask(Put(1), timeout=0.001)
    with pytest.raises(DeadlineExceeded):
        await actors.ref(1).ask(Put(2), timeout=0)
    release.set()
    await actors.ref(1).ask(Put(3))

    assert world.received[1] == [3]


async def test_cancelled_asker_does_not_cancel_the_turn(actors: Recorders, world: World) -> None:
    asker = asyncio.create_task(actors.ref(1).ask(Put(1, yields=5)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asker.cancel()
    await settle()

    assert asker.cancelled()
    assert world.received[1] == [1]
    assert world.left == []


async def test_turn_that_awaits_a_cancelled_task_is_a_failure(
    actors: Recorders, world: World
) -> None:
    async def await_cancelled(_: ActorContext[RecorderMessage]) -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    with pytest.raises(Unavailable, match="failed on this message"):
        await actors.ref(1).ask(RunSlow(await_cancelled))

    assert await actors.ref(1).ask(Put(1)) == 1
    assert world.built == [1, 1]


async def test_ask_cycle_across_keys_is_refused_at_once(actors: Recorders) -> None:
    async def ask_back(_: ActorContext[RecorderMessage]) -> object:
        return await actors.ref(1).ask(Put(0))

    async def ask_two(_: ActorContext[RecorderMessage]) -> object:
        first, _second = await asyncio.gather(
            actors.ref(2).ask(RunSlow(ask_back)), actors.ref(3).ask(Put(1))
        )
        return first

    with pytest.raises(FailedPrecondition) as refusal:
        await actors.ref(1).ask(RunSlow(ask_two))

    assert refusal.value.reason is Reason.ASK_CYCLE
    assert await actors.ref(1).ask(Put(4)) == 4


async def test_piped_work_may_be_asked_back_for(actors: Recorders) -> None:
    """The turn that piped the work has ended, so that no turn waits for another."""

    async def ask_back(_: ActorContext[RecorderMessage]) -> object:
        return await actors.ref(1).ask(Put(5))

    async def work() -> RecorderMessage | None:
        return Put(int(await actors.ref(2).ask(RunSlow(ask_back))))

    actors.ref(1).tell(pipe(work))
    await settle()

    assert await actors.ref(1).ask(Put(6)) == 6


async def test_work_may_ask_an_actor_that_has_its_reply_and_continues_its_turn(
    actors: Recorders, world: World
) -> None:
    release = asyncio.Event()

    async def work() -> RecorderMessage:
        answer: int = await actors.ref(1).ask(Put(5))
        return Put(answer)

    async def ask_for_work(_: ActorContext[RecorderMessage]) -> None:
        await actors.ref(2).ask(pipe(work))
        await release.wait()

    actors.ref(1).tell(RunSlow(ask_for_work))
    await settle()
    release.set()
    await settle()

    assert world.received == {1: [5], 2: [5]}


async def test_work_may_ask_its_own_actor_during_the_turn_that_piped_it(
    actors: Recorders, world: World
) -> None:
    release = asyncio.Event()

    async def work() -> RecorderMessage:
        answer: int = await actors.ref(1).ask(Put(5))
        return Put(answer + 1)

    async def pipe_twice(context: ActorContext[RecorderMessage]) -> None:
        context.pipe_to_self(asyncio.sleep(0), name="first")
        context.pipe_to_self(work(), name="second")
        await release.wait()

    actors.ref(1).tell(RunSlow(pipe_twice))
    await settle()
    release.set()
    await settle()

    assert world.received == {1: [5, 6]}


async def test_turn_sees_the_context_of_its_sender_or_an_empty_one(actors: Recorders) -> None:
    sender: ContextVar[str] = ContextVar("sender", default="nothing")
    seen = []

    async def work() -> None:
        seen.append(sender.get())

    def look(context: ActorContext[RecorderMessage]) -> None:
        seen.append(sender.get())
        context.pipe_to_self(work(), name="look")

    for name in ("alice", "bob"):
        sender.set(name)
        await actors.ref(1).ask(Run(look))
        await settle()

    assert seen in (["alice", "alice", "bob", "bob"], ["nothing"] * 4)
    assert (seen[0] == "alice") == (actors._directory.capture is not None)
