"""The common part of every engine's process: bursts on demand, and what they took."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def serve(run: Callable[[], Awaitable[object]]) -> None:
    """Answer every line of stdin with a burst of runs."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        concurrency, seconds = line.split()
        print(json.dumps(await _burst(run, int(concurrency), float(seconds))), flush=True)


async def _burst(
    run: Callable[[], Awaitable[object]], concurrency: int, seconds: float
) -> dict[str, float]:
    durations: list[float] = []
    start, processor = time.perf_counter(), time.process_time()

    async def client() -> None:
        while (began := time.perf_counter()) < start + seconds:
            await run()
            durations.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    durations.sort()
    return {
        "rate": len(durations) / elapsed,
        "p99_ms": durations[len(durations) * 99 // 100] * 1000,
        "cpu_ms": (time.process_time() - processor) * 1000 / len(durations),
    }
