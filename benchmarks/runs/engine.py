"""Engines that run in a process of their own and answer requests for bursts of runs."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from subprocess import PIPE, Popen, TimeoutExpired
from threading import Thread
from typing import IO, TYPE_CHECKING

from benchmarks import peer
from benchmarks.rounds import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

READY_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 60.0  # beyond the duration of the burst
END_TIMEOUT_S = 20.0


class EngineError(RuntimeError):
    """An engine ended early, or did not answer; the text says which, on one line."""


@dataclass(frozen=True, slots=True)
class Burst:
    runs: int
    rate: float  # runs per second until the last one ended
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # per run, in the engine's processes; not in a PostgreSQL server
    client_cpu_ms: float = 0.0  # per run, in the client's process if there is one
    client_s: float = 0.0  # until the average client ended; not in checkouts of before


class Engine:
    """A process that makes bursts of runs. Every request has a deadline."""

    def __init__(self, process: Popen[str], name: str) -> None:
        assert process.stdin is not None  # noqa: S101  (both are pipes)
        assert process.stdout is not None  # noqa: S101
        self._process, self._name = process, name
        self._requests: IO[str] = process.stdin
        self._answers: SimpleQueue[str] = SimpleQueue()
        Thread(target=self._read, args=[process.stdout], name=name, daemon=True).start()

    def burst(self, concurrency: int, seconds: float) -> Burst:
        """Returns what a burst did. Raises EngineError if there is no answer."""
        try:
            self._requests.write(f"{concurrency} {seconds}\n")
            self._requests.flush()
        except OSError:
            raise self._ended() from None
        return Burst(**json.loads(self._line(seconds + ANSWER_TIMEOUT_S)))

    def wait_until_ready(self) -> None:
        while self._line(READY_TIMEOUT_S) != "ready\n":
            pass

    def close(self) -> None:
        """Ends the engine's input, waits for its end, and kills it if that takes too long."""
        try:
            self._requests.close()
            self._process.wait(END_TIMEOUT_S)
        except (OSError, TimeoutExpired):
            self._process.kill()

    def _line(self, timeout: float) -> str:
        try:
            line = self._answers.get(timeout=timeout)
        except Empty:
            raise EngineError(f"{self._name} did not answer within {timeout:g} s") from None
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> EngineError:
        status = self._process.wait(END_TIMEOUT_S)
        return EngineError(f"{self._name} ended with status {status}; stderr has its error")

    def _read(self, output: IO[str]) -> None:
        for line in output:
            self._answers.put(line)
        self._answers.put("")


class Throughput:
    """A side of a comparison: runs per second of an engine at one concurrency.

    Each client ends after its own last run, so the slowest run of a burst delays one client, not
    all of them: the burst would otherwise count against the side whose runs take long.
    """

    def __init__(self, engine: Engine, concurrency: int) -> None:
        self._engine, self._concurrency = engine, concurrency
        self._bursts: list[Burst] = []

    def __call__(self, seconds: float) -> Sample:
        burst = self._engine.burst(self._concurrency, seconds)
        self._bursts.append(burst)
        return self.sample(burst)

    def sample(self, burst: Burst) -> Sample:
        return Sample(burst.runs, burst.client_s)

    def describe(self) -> str:
        """Returns the rate after the warm-up, and how much of the CPU time the client took."""
        _, *bursts = self._bursts
        runs = sum(burst.runs for burst in bursts)
        rate = runs / sum(burst.client_s for burst in bursts)
        client_ms = sum(burst.client_cpu_ms * burst.runs for burst in bursts) / runs
        engine_ms = sum(burst.cpu_ms * burst.runs for burst in bursts) / runs
        if not client_ms:
            return f"{rate:.0f}/s at {engine_ms:.2f} ms of CPU each"
        share = client_ms / (client_ms + engine_ms)
        return (
            f"{rate:.0f}/s at {engine_ms:.2f} ms of CPU each and {client_ms:.2f} ms "
            f"in the client ({share:.0%})"
        )


class WholeBursts(Throughput):
    """Runs per second until the last run of a burst ended, which every checkout reports."""

    def sample(self, burst: Burst) -> Sample:
        return Sample(burst.runs, burst.runs / burst.rate)


class Latency(Throughput):
    """A side of a comparison: the inverse of the median duration of each burst."""

    def sample(self, burst: Burst) -> Sample:
        return Sample(1, burst.p50_ms)


@contextmanager
def ours(
    *arguments: str,
    python: str = sys.executable,
    root: Path = peer.ROOT,
    event_loop: str = "asyncio",
) -> Iterator[Engine]:
    """Runs our engine, by default of this checkout, with options of benchmarks/runs/ours.py.

    It runs on asyncio, as its peers do, even if uvloop is installed.
    """
    command = [python, "-m", "benchmarks.runs.ours", *arguments]
    with _engine("our engine", command, root, event_loop) as engine:
        yield engine


@contextmanager
def chain(event_loop: str) -> Iterator[Engine]:
    """Runs calls through every interceptor, in place of runs."""
    command = [sys.executable, "-m", "benchmarks.runs.chain"]
    with _engine(f"chain on {event_loop}", command, event_loop=event_loop) as engine:
        yield engine


@contextmanager
def dbos(*arguments: str) -> Iterator[Engine]:
    """Runs DBOS. Raises PeerMissing if it cannot be installed."""
    python = str(peer.python("dbos"))
    with _engine("dbos", [python, "benchmarks/runs/dbos_engine.py", *arguments]) as engine:
        yield engine


@contextmanager
def restate() -> Iterator[Engine]:
    """Runs Restate. Raises PeerMissing if there is no binary of it for this machine."""
    python = str(peer.python("restate"))
    found = sorted(peer.node("restate").glob("@restatedev/restate-server-*/bin/restate-server"))
    if not found:
        raise peer.PeerMissing("restate-server has no binary for this machine")
    command = [python, "benchmarks/runs/restate_engine.py", str(found[0])]
    with _engine("restate", command) as engine:
        yield engine


@contextmanager
def _engine(
    name: str, command: Sequence[str], root: Path = peer.ROOT, event_loop: str = "asyncio"
) -> Iterator[Engine]:
    environment = {**os.environ, "ANYA_EVENT_LOOP": event_loop}
    with Popen(  # noqa: S603  (ours)
        command, stdin=PIPE, stdout=PIPE, text=True, cwd=root, env=environment
    ) as process:
        engine = Engine(process, name)
        try:
            engine.wait_until_ready()
            yield engine
        finally:
            engine.close()
