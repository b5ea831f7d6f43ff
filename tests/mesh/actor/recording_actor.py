"""An actor that records what it receives, and a registry of such actors on a manual clock."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from mesh.actor import Actor, ActorRegistry, Message, Supervision
from mesh.errors import Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mesh.actor import ActorContext, ActorRef, Piped
    from mesh.clock import ManualClock

IDLE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Put(Message[int]):
    """Records the number; the reply is it again."""

    number: int
    yields: int = 0  # iterations of the loop that the turn takes


@dataclass(frozen=True, slots=True)
class Fail(Message[None]):
    """Raises the error."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Run(Message[Any]):
    """Calls the function with the actor's context in its turn; the reply is the result."""

    function: Callable[[ActorContext[RecorderMessage]], Any]


@dataclass(frozen=True, slots=True)
class RunSlow(Message[Any]):
    """Awaits what the function returns."""

    function: Callable[[ActorContext[RecorderMessage]], Awaitable[Any]]


RecorderMessage: TypeAlias = Put | Fail | Run | RunSlow


@dataclass
class World:
    """The store of the actors, and what is observed of them."""

    received: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    turns: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # in progress, by key
    built: list[int] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    left: list[tuple[int, Exception | None]] = field(default_factory=list)
    outage: Exception | None = None  # raised by build
    may_passivate: bool = True
    passivating: Callable[[int], Awaitable[object]] | None = None
    stopping: Callable[[int], Awaitable[object]] | None = None
    building: Callable[[int], Awaitable[object]] | None = None

    async def build(self, key: int, context: ActorContext[RecorderMessage]) -> Recorder:
        self.built.append(key)
        if self.building is not None:
            await self.building(key)
        if self.outage is not None:
            raise self.outage
        return Recorder(self, key, context)

    def on_left(self, key: int, error: Exception | None) -> None:
        self.left.append((key, error))


class Recorder(Actor[RecorderMessage]):
    """Fails a test if its turns overlap."""

    def __init__(self, world: World, key: int, context: ActorContext[RecorderMessage]) -> None:
        self._world = world
        self._key = key
        self._context = context

    async def receive(self, message: RecorderMessage) -> object:
        assert not self._world.turns[self._key], "two turns overlap"
        self._world.turns[self._key] += 1
        try:
            match message:
                case Put(number, yields):
                    for _ in range(yields):
                        await asyncio.sleep(0)
                    self._world.received[self._key].append(number)
                    return number
                case Fail(error):
                    raise error
                case Run(function):
                    return function(self._context)
                case RunSlow(function):
                    return await function(self._context)
                case _:
                    assert_never(message)
        finally:
            self._world.turns[self._key] -= 1

    async def passivate(self) -> bool:
        assert not self._world.turns[self._key]
        if self._world.passivating is not None:
            await self._world.passivating(self._key)
        return self._world.may_passivate

    async def on_stop(self) -> None:
        assert not self._world.turns[self._key]
        if self._world.stopping is not None:
            await self._world.stopping(self._key)
        self._world.stopped.append(self._key)


Recorders: TypeAlias = ActorRegistry[int, RecorderMessage]
RecorderRef: TypeAlias = "ActorRef[RecorderMessage]"


def recorders(
    world: World,
    clock: ManualClock,
    *,
    can_build: bool = True,
    in_sender_context: bool = False,
    max_active: int | None = None,
    supervision: Supervision | None = None,
) -> Recorders:
    return ActorRegistry(
        world.build if can_build else None,
        name="recorder",
        supervision=supervision
        or Supervision(mailbox_size=8, max_restarts=2, window_s=10, backoff_s=0),
        idle_timeout_s=IDLE_TIMEOUT_S,
        max_active=max_active,
        in_sender_context=in_sender_context,
        on_stopped=world.on_left,
        clock=clock,
    )


async def settle() -> None:
    """Lets every task run until all wait."""
    for _ in range(50):
        await asyncio.sleep(0)


async def pass_time(clock: ManualClock, seconds: float = IDLE_TIMEOUT_S + 1) -> None:
    await settle()
    clock.advance(seconds)
    await settle()


def unavailable() -> Unavailable:
    return Unavailable("the store is unavailable", reason=Reason.STORE_UNAVAILABLE)


def pipe(
    work: Callable[[], Awaitable[RecorderMessage | None]], pipes: list[Piped] | None = None
) -> Run:
    """Returns a message whose turn pipes the work."""

    def begin(context: ActorContext[RecorderMessage]) -> None:
        piped = context.pipe_to_self(work(), name="work")
        if pipes is not None:
            pipes.append(piped)

    return Run(begin)


def hold(until: asyncio.Event) -> RunSlow:
    return RunSlow(lambda _: until.wait())


def tasks() -> set[str]:
    """Returns the names of all tasks but the test's own."""
    return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}
