"""The same work on uvloop and on asyncio: what the extra ``fast`` gains."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from benchmarks.orchestrator import STORES
from benchmarks.ratio import Compared, Measure, Ratio, compare_engines, of_rounds
from benchmarks.runs import collector, engine

if TYPE_CHECKING:
    from benchmarks.runs.engine import Engine

MIN_GAIN = 1.1


def chain(rounds: int, *, concurrency: int) -> Ratio:
    """Measures unary calls through every interceptor, on both sides in one process."""

    def compared() -> Compared:
        with engine.chain("uvloop") as ours, engine.chain("asyncio") as theirs:
            return compare_engines(rounds, ours, theirs, concurrency)

    return of_rounds(
        compared,
        goal=MIN_GAIN,
        unit=f"unary calls per second at concurrency {concurrency}, uvloop over asyncio",
        peer=f"asyncio; ours uvloop {version('uvloop')}",
        setup="client and server in one process, mTLS, no trace sampled",
    )


def door(rounds: int) -> Ratio:
    """Measures runs that a client on the same kind of loop starts over gRPC."""

    def compared() -> Compared:
        with ExitStack() as stack:
            new_store = stack.enter_context(STORES["postgres"]())
            spans = stack.enter_context(collector.running())

            def side(event_loop: str) -> Engine:
                options = ("--store", new_store(event_loop), "--door", "grpc")
                return stack.enter_context(
                    engine.ours(*options, "--collector", spans, event_loop=event_loop)
                )

            return compare_engines(rounds, side("uvloop"), side("asyncio"), 16)

    return of_rounds(
        compared,
        goal=MIN_GAIN,
        unit="no-op runs per second at concurrency 16, postgres, grpc, uvloop over asyncio",
        peer=f"asyncio; ours uvloop {version('uvloop')}",
        setup="clients in processes of their own, on the same loop as the engine, mTLS",
    )


MEASURES: dict[str, Measure] = {
    "chain_uvloop_vs_asyncio": partial(chain, concurrency=16),
    "chain_uvloop_vs_asyncio_c1": partial(chain, concurrency=1),
    "orchestrator_door_uvloop_vs_asyncio": door,
}
