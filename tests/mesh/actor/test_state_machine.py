"""Any sequence of messages, failures, passivations and stops: no message is lost or doubled."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mesh.actor import ActorPassivatedError
from mesh.clock import ManualClock
from mesh.errors import MeshError, ResourceExhausted
from tests.mesh.actor.recording_actor import (
    IDLE_TIMEOUT_S,
    Fail,
    Put,
    Recorders,
    World,
    pipe,
    recorders,
    settle,
    tasks,
    unavailable,
)
from tests.profile import examples

KEYS = st.sampled_from([1, 2])
STEPS = st.integers(min_value=0, max_value=4)  # iterations of the loop


class ActorMachine(RuleBasedStateMachine):
    """Knows which numbers each key must have received, and which it may have."""

    can_build = True
    in_sender_context = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.clock = ManualClock()
        self.world = World()
        self.numbers = 0
        self.accepted: dict[int, set[int]] = {1: set(), 2: set()}  # accepted: to be received
        self.piped: set[int] = set()  # arrive out of order, or not at all
        self.endangered: set[int] = set()  # keys that refuse what waits, once they get so far
        self.asks: dict[int, asyncio.Task[int]] = {}
        self.stops: set[asyncio.Task[None]] = set()
        self.actors: Recorders = self.runner.run(self.open())

    async def open(self) -> Recorders:
        registry = recorders(
            self.world,
            self.clock,
            can_build=self.can_build,
            in_sender_context=self.in_sender_context,
        )
        return await self.stack.enter_async_context(registry.running(grace_s=1))

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    def endanger(self, key: int) -> None:
        self.endangered.add(key)
        self.accepted[key].clear()

    @rule(key=KEYS, yields=STEPS, steps=STEPS)
    def tell(self, key: int, yields: int, steps: int) -> None:
        async def act() -> None:
            number = self.next_number()
            try:
                self.actors.ref(key).tell(Put(number, yields))
            except MeshError:
                return
            if self.can_build and key not in self.endangered:
                self.accepted[key].add(number)
            await take(steps)

        self.runner.run(act())

    @rule(key=KEYS, yields=STEPS, steps=STEPS, cancel=st.booleans())
    def ask(self, key: int, yields: int, steps: int, cancel: bool) -> None:
        async def ask() -> int:
            number = self.next_number()
            task = asyncio.current_task()
            assert task is not None
            self.asks[number] = task
            return await self.actors.ref(key).ask(Put(number, yields), timeout=60)

        async def act() -> None:
            task = asyncio.create_task(ask())
            await take(steps)
            if cancel:
                task.cancel()

        self.runner.run(act())

    @rule(key=KEYS, takes=STEPS, steps=STEPS)
    def pipe(self, key: int, takes: int, steps: int) -> None:
        async def act() -> None:
            number = self.next_number()
            self.piped.add(number)

            async def work() -> Put:
                await take(takes)
                return Put(number)

            try:
                self.actors.ref(key).tell(pipe(work))
            except MeshError:
                return
            await take(steps)

        self.runner.run(act())

    @rule(key=KEYS, outage=st.booleans(), works=st.booleans(), steps=STEPS)
    def fail(self, key: int, outage: bool, works: bool, steps: int) -> None:
        """Too many failures stop the actor, and an outage rejects what waits."""

        async def act() -> None:
            error = ZeroDivisionError()
            if outage:
                error.__cause__ = unavailable()

            async def work() -> None:
                raise error

            try:
                self.actors.ref(key).tell(pipe(work) if works else Fail(error))
            except MeshError:
                return
            self.endanger(key)
            await take(steps)

        self.runner.run(act())

    @rule(key=KEYS, drain=st.booleans(), steps=STEPS)
    def stop(self, key: int, drain: bool, steps: int) -> None:
        async def act() -> None:
            if not drain:
                self.endanger(key)
            self.stops.add(asyncio.create_task(self.actors.stop(key, drain=drain)))
            await take(steps)

        self.runner.run(act())

    @rule(takes=STEPS, agrees=st.booleans(), steps=STEPS)
    def pass_time(self, takes: int, agrees: bool, steps: int) -> None:
        async def act() -> None:
            self.world.may_passivate = agrees
            self.world.passivating = self.world.stopping = lambda _: take(takes)
            self.world.building = lambda _: take(takes)
            self.clock.advance(IDLE_TIMEOUT_S + 1)
            await take(steps)

        self.runner.run(act())

    @rule(key=KEYS)
    def activate(self, key: int) -> None:
        async def act() -> None:
            if self.actors.find(key) is None:
                self.actors.activate(key, lambda context: self.world.build(key, context))

        self.runner.run(act())

    @rule()
    def settle(self) -> None:
        self.runner.run(self.settled())

    async def settled(self) -> None:
        for _ in range(5):
            await settle()
        assert all(task.done() for task in (*self.asks.values(), *self.stops))
        for key, accepted in self.accepted.items():
            assert accepted <= set(self.world.received[key])
            accepted.clear()
        self.endangered.clear()
        received = {number for numbers in self.world.received.values() for number in numbers}
        for number, ask in self.asks.items():
            error = None if ask.cancelled() else ask.exception()
            if isinstance(error, ActorPassivatedError | ResourceExhausted):
                assert number not in received
            elif error is None and not ask.cancelled():
                assert ask.result() == number
                assert number in received
        self.asks.clear()
        self.stops.clear()
        busy = {name for name in tasks() if name != "passivate recorder"}
        assert not busy, "an idle actor has a task"

    @invariant()
    def each_key_receives_in_order_and_once(self) -> None:
        for numbers in self.world.received.values():
            in_order = [number for number in numbers if number not in self.piped]
            assert in_order == sorted(set(in_order))
            assert len(numbers) == len(set(numbers))

    def teardown(self) -> None:
        async def close() -> None:
            await self.settled()
            await self.stack.aclose()
            await settle()
            assert not tasks()
            assert len(self.actors) == 0

        self.runner.run(close())
        self.runner.close()


async def take(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


class ActorMachineInContext(ActorMachine):
    """Turns in the contexts of their senders."""

    in_sender_context = True


class ActivatedActorMachine(ActorMachine):
    """The registry cannot build an actor: its waiting messages are rejected."""

    can_build = False


@pytest.mark.parametrize("machine", [ActorMachine, ActorMachineInContext, ActivatedActorMachine])
def test_no_message_is_lost_or_doubled(machine: type[ActorMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(deadline=None, max_examples=examples(200), stateful_step_count=40),
    )
