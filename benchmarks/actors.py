"""Actors against what they are made of: a queue with one task, and a loop in one coroutine.

The bursts of both sides alternate in one process, so that other load slows both alike.
"""

from __future__ import annotations

import asyncio
import gc
import platform
import time
import tracemalloc
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.ratio import Measure, Ratio
from mesh.actor import Actor, ActorRegistry, Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from contextvars import Context

    from mesh.actor import ActorContext, ActorRef

    Burst: TypeAlias = Callable[[], Awaitable[int]]  # performs a burst, returns how many it did
    Reply: TypeAlias = asyncio.Future[int]
    Activate: TypeAlias = Callable[[], Awaitable[None]]
    Open: TypeAlias = Callable[[], AbstractAsyncContextManager[Burst]]

BURST = 500  # messages
BURSTS = 100  # of each side in one round
ACTORS = 100_000
PYTHON = f"asyncio of Python {platform.python_version()}"


@dataclass(frozen=True, slots=True)
class Count(Message[int]):
    """Adds one."""


@dataclass(frozen=True, slots=True)
class Chain(Message[None]):
    """Pipes work that leads to the next link, until ``left`` is 0."""

    left: int
    end: asyncio.Event


class Counter(Actor[Count | Chain]):
    """Does as little as an actor can."""

    def __init__(self, context: ActorContext[Count | Chain]) -> None:
        self._context = context
        self.count = 0

    async def receive(self, message: Count | Chain) -> int:
        self.count += 1
        if type(message) is Chain:
            if message.left:
                self._context.pipe_to_self(_work(message), name="work")
            else:
                message.end.set()
        return self.count


class QueueActor:
    """The usual actor of a few lines: a bounded queue, and a task that takes from it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Count, Reply | None]] = asyncio.Queue(1024)
        self.count = 0

    def tell(self, message: Count) -> None:
        self.queue.put_nowait((message, None))

    async def ask(self, message: Count, *, timeout: float = 5.0) -> int:
        reply: Reply = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((message, reply))
        async with asyncio.timeout(timeout):
            return await reply

    async def run(self) -> None:
        while True:
            message, reply = await self.queue.get()
            result = await self.receive(message)
            if reply is not None and not reply.done():
                reply.set_result(result)

    async def receive(self, message: Count) -> int:
        self.count += 1
        return self.count


class ContextQueueActor:
    """The same, with each message received in the context of its sender: in a task of its own."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Count, Reply | None, Context]] = asyncio.Queue(1024)
        self.count = 0

    def tell(self, message: Count) -> None:
        self.queue.put_nowait((message, None, copy_context()))

    async def ask(self, message: Count, *, timeout: float = 5.0) -> int:
        reply: Reply = asyncio.get_running_loop().create_future()
        self.queue.put_nowait((message, reply, copy_context()))
        async with asyncio.timeout(timeout):
            return await reply

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message, reply, context = await self.queue.get()
            result = await loop.create_task(self.receive(message), context=context)
            if reply is not None and not reply.done():
                reply.set_result(result)

    async def receive(self, message: Count) -> int:
        self.count += 1
        return self.count


def tell_vs_queue(rounds: int, *, context: bool, goal: float) -> Ratio:
    """Measures messages without a reply, in bursts that fill half of the mailbox."""
    what = "tells per second"
    return _ratio(
        rounds, partial(_ours, _tell_all, context), _queue(_tell_all, context), goal, what
    )


def ask_vs_queue(rounds: int, *, concurrency: int, context: bool, goal: float) -> Ratio:
    """Measures messages whose senders wait for the reply, with a deadline on both sides."""
    ask_all = partial(_ask_all, concurrency=concurrency)
    ours, theirs = partial(_ours, ask_all, context), _queue(ask_all, context)
    return _ratio(rounds, ours, theirs, goal, f"asks per second at concurrency {concurrency}")


def chain_vs_coroutine(rounds: int) -> Ratio:
    """Measures turns that each pipe the work that leads to the next, against awaiting it."""
    return _ratio(rounds, _chain, _coroutine, 0.3, "turns and works per second")


def activation_us(rounds: int) -> Ratio:
    """Measures 100,000 actors that are activated, receive one message, and wait to passivate."""
    return Ratio(
        value=max(asyncio.run(_activate_all(_time_us)) for _ in range(rounds)),
        goal=30,
        unit=f"µs of CPU for each of {ACTORS:,} activations with one message",
        peer=PYTHON,
        at_most=True,
    )


def activation_bytes(_: int) -> Ratio:
    """Measures the memory of an idle actor, without its key and without its own state."""
    return Ratio(
        value=asyncio.run(_activate_all(_bytes)),
        goal=1000,
        unit=f"bytes for each of {ACTORS:,} idle actors",
        peer=PYTHON,
        at_most=True,
    )


MEASURES: dict[str, Measure] = {
    "tell_vs_queue": partial(tell_vs_queue, context=False, goal=1.5),
    "tell_in_context_vs_queue": partial(tell_vs_queue, context=True, goal=1.5),
    "ask_vs_queue": partial(ask_vs_queue, concurrency=64, context=False, goal=1.0),
    "ask_vs_queue_c1": partial(ask_vs_queue, concurrency=1, context=False, goal=1.0),
    "ask_in_context_vs_queue": partial(ask_vs_queue, concurrency=64, context=True, goal=1.0),
    "chain_vs_coroutine": chain_vs_coroutine,
    "activation_us": activation_us,
    "activation_bytes": activation_bytes,
}


def _ratio(rounds: int, ours: Open, theirs: Open, goal: float, what: str) -> Ratio:
    return Ratio(
        value=min(asyncio.run(_measure(rounds, ours, theirs))),
        goal=goal,
        unit=f"{what}, ours over theirs",
        peer=PYTHON,
    )


async def _measure(rounds: int, open_ours: Open, open_theirs: Open) -> list[float]:
    async with open_ours() as ours, open_theirs() as theirs:
        await _round(ours, theirs)
        return [await _round(ours, theirs) for _ in range(rounds)]


async def _round(ours: Burst, theirs: Burst) -> float:
    """Compares the median bursts: each is short, and the system may interrupt any."""
    seconds: dict[Burst, list[float]] = {ours: [], theirs: []}
    for _ in range(BURSTS):
        for burst, each in seconds.items():
            start = time.perf_counter()
            done = await burst()
            each.append((time.perf_counter() - start) / done)
    return median(seconds[theirs]) / median(seconds[ours])


async def _tell_all(ref: ActorRef[Count | Chain]) -> int:
    for _ in range(BURST):
        ref.tell(Count())
    await ref.ask(Count())
    return BURST + 1


async def _ask_all(ref: ActorRef[Count | Chain], *, concurrency: int) -> int:
    each = BURST // concurrency

    async def caller() -> None:
        for _ in range(each):
            await ref.ask(Count())

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return each * concurrency


@asynccontextmanager
async def _ours(burst: Callable[[Any], Awaitable[int]], context: bool) -> AsyncIterator[Burst]:
    async with _registry(in_sender_context=context).running() as actors:
        yield partial(burst, actors.ref(1))


def _queue(burst: Callable[[Any], Awaitable[int]], context: bool) -> Open:
    @asynccontextmanager
    async def running() -> AsyncIterator[Burst]:
        actor = ContextQueueActor() if context else QueueActor()
        task = asyncio.create_task(actor.run(), name="queue actor")
        yield partial(burst, actor)
        task.cancel()

    return running


@asynccontextmanager
async def _chain() -> AsyncIterator[Burst]:
    async with _registry(in_sender_context=False).running() as actors:
        ref = actors.ref(0)

        async def burst() -> int:
            end = asyncio.Event()
            ref.tell(Chain(BURST, end))
            await end.wait()
            return BURST

        yield burst


@asynccontextmanager
async def _coroutine() -> AsyncIterator[Burst]:
    async def receive(message: Chain) -> int:
        return message.left

    async def burst() -> int:
        message = Chain(BURST, asyncio.Event())
        while await receive(message):
            message = await _work(message)
        return BURST

    yield burst


async def _work(last: Chain) -> Chain:
    await asyncio.sleep(0)
    return Chain(last.left - 1, last.end)


def _registry(*, in_sender_context: bool) -> ActorRegistry[int, Count | Chain]:
    async def build(key: int, context: ActorContext[Count | Chain]) -> Counter:
        return Counter(context)

    return ActorRegistry(
        build, name="counter", idle_timeout_s=3600.0, in_sender_context=in_sender_context
    )


async def _activate_all(
    measure: Callable[[Callable[[], Awaitable[None]]], Awaitable[float]],
) -> float:
    actors = _registry(in_sender_context=False)

    async def activate() -> None:
        for key in range(ACTORS):
            actors.ref(key).tell(Count())
            if key % BURST == 0:
                await asyncio.sleep(0)
        await actors.ref(ACTORS - 1).ask(Count())

    async with actors.running():
        return await measure(activate) / ACTORS


async def _time_us(activate: Activate) -> float:
    start = time.process_time()
    await activate()
    return (time.process_time() - start) * 1e6


async def _bytes(activate: Activate) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        await activate()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
