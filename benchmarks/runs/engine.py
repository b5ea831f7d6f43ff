"""Engines that run in a process of their own and answer requests for bursts of runs."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import IO, TYPE_CHECKING

from benchmarks import peer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Burst:
    runs: int
    rate: float  # runs per second
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # per run, in the engine's process


@dataclass(frozen=True, slots=True)
class Engine:
    requests: IO[str]
    answers: IO[str]

    def burst(self, concurrency: int, seconds: float) -> Burst:
        self.requests.write(f"{concurrency} {seconds}\n")
        self.requests.flush()
        return Burst(**json.loads(self._line()))

    def wait_until_ready(self) -> None:
        while self._line() != "ready\n":
            pass

    def _line(self) -> str:
        line = self.answers.readline()
        if not line:
            raise AssertionError("an engine ended early; its output is above")
        return line


@contextmanager
def ours(*arguments: str, python: str = sys.executable, root: Path = peer.ROOT) -> Iterator[Engine]:
    """Runs our engine, by default of this checkout, with options of benchmarks/runs/ours.py."""
    with _engine([python, "-m", "benchmarks.runs.ours", *arguments], root) as engine:
        yield engine


@contextmanager
def dbos(*arguments: str) -> Iterator[Engine]:
    """Runs DBOS. Raises PeerMissing if it cannot be installed."""
    python = str(peer.python("dbos"))
    with _engine([python, "benchmarks/runs/dbos_engine.py", *arguments]) as engine:
        yield engine


@contextmanager
def restate() -> Iterator[Engine]:
    """Runs Restate. Raises PeerMissing if there is no binary of it for this machine."""
    python = str(peer.python("restate"))
    found = sorted(peer.node("restate").glob("@restatedev/restate-server-*/bin/restate-server"))
    if not found:
        raise peer.PeerMissing("restate-server has no binary for this machine")
    with _engine([python, "benchmarks/runs/restate_engine.py", str(found[0])]) as engine:
        yield engine


@contextmanager
def _engine(command: Sequence[str], root: Path = peer.ROOT) -> Iterator[Engine]:
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=root) as process:  # noqa: S603  (ours)
        assert process.stdin is not None  # noqa: S101  (both are pipes)
        assert process.stdout is not None  # noqa: S101
        engine = Engine(process.stdin, process.stdout)
        engine.wait_until_ready()
        yield engine
        process.stdin.close()
