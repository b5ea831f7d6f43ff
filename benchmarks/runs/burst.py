"""The common part of every engine's process: bursts on demand, and what they took."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, create_subprocess_exec
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def serve(
    run: Callable[[], Awaitable[Any]], *, engine_cpu_s: Callable[[], float] | None = None
) -> None:
    """Answers each line of stdin with a burst. A ``run`` may return the seconds that count.

    If this process is only the client, ``engine_cpu_s`` returns the CPU seconds of the engine.
    """
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        concurrency, seconds = line.split()
        before = engine_cpu_s() if engine_cpu_s else 0.0
        answer = await _burst(run, int(concurrency), float(seconds))
        if engine_cpu_s:
            answer["client_cpu_ms"] = answer["cpu_ms"]
            answer["cpu_ms"] = (engine_cpu_s() - before) * 1000 / answer["runs"]
        print(json.dumps(answer), flush=True)


async def relay(*client: str) -> None:
    """Relays bursts to a client's process, and reports the CPU time of both processes."""
    process = await create_subprocess_exec(*client, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None  # noqa: S101  (both are pipes)
    assert process.stdout is not None  # noqa: S101
    try:
        print((await process.stdout.readline()).decode(), end="", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            processor = time.process_time()
            process.stdin.write(line.encode())
            answer = json.loads(await process.stdout.readline())
            answer["client_cpu_ms"] = answer["cpu_ms"]
            answer["cpu_ms"] = (time.process_time() - processor) * 1000 / answer["runs"]
            print(json.dumps(answer), flush=True)
    finally:
        process.stdin.close()
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _burst(
    run: Callable[[], Awaitable[Any]], concurrency: int, seconds: float
) -> dict[str, float]:
    durations: list[float] = []
    start, processor = time.perf_counter(), time.process_time()

    async def client() -> float:
        """Makes one run after the other; returns the seconds until its last one ended."""
        while (began := time.perf_counter()) < start + seconds:
            counts = await run()
            elapsed = time.perf_counter() - began
            durations.append(counts if isinstance(counts, float) else elapsed)
        return time.perf_counter() - start

    ends = await asyncio.gather(*(client() for _ in range(concurrency)))
    elapsed = time.perf_counter() - start
    durations.sort()
    return {
        "runs": len(durations),
        "rate": len(durations) / elapsed,
        "client_s": sum(ends) / len(ends),
        "p50_ms": durations[len(durations) // 2] * 1000,
        "p99_ms": durations[len(durations) * 99 // 100] * 1000,
        "cpu_ms": (time.process_time() - processor) * 1000 / len(durations),
    }
