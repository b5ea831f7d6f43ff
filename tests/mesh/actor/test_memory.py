"""An actor that has left memory leaves nothing to the collector of garbage."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from mesh.actor import Actor, ActorContext, ActorRegistry, Message

if TYPE_CHECKING:
    from collections.abc import Iterator


class Work(Message[None]):
    """Asks the actor to pipe work, and to stop after its result."""


class Result(Message[None]):
    """The result of the work."""


class State:
    """The state that an actor is built from."""


class Worker(Actor[Work | Result]):
    def __init__(self, context: ActorContext[Work | Result], state: State) -> None:
        self._context = context
        self._state = state

    async def receive(self, message: Work | Result) -> None:
        if isinstance(message, Result):
            self._context.stop()
        else:
            self._context.pipe_to_self(self._work(), name="work")

    async def _work(self) -> Result:
        return Result()


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collections")
async def test_state_of_an_actor_is_freed_when_it_leaves() -> None:
    left = asyncio.Event()
    registry: ActorRegistry[str, Work | Result] = ActorRegistry(
        None, name="worker", on_stopped=lambda key, error: left.set()
    )

    def activate() -> weakref.ref[State]:
        state = State()

        async def build(context: ActorContext[Work | Result]) -> Worker:
            return Worker(context, state)

        registry.activate("one", build).tell(Work())
        return weakref.ref(state)

    state = activate()
    await left.wait()
    await asyncio.sleep(0)  # its task ends

    assert state() is None
