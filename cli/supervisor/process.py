"""One process: started, waited for until it is ready, stopped in time or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0  # from SIGTERM to SIGKILL
MAX_LOG_BYTES = 10 * 1024 * 1024  # checked when a process starts
MAX_LINE_BYTES = 1024 * 1024  # of one line on its stdout
OTHERS = 0o077  # what a process takes from others on the files it makes: data, logs, keys

# Runs before the command, in the process that becomes it: if the supervisor is killed, the kernel
# sends SIGTERM. Not preexec_fn, which would fork a process that runs gRPC's threads.
LEASH = """
import ctypes, os, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl: prctl(1, 15, 0, 0, 0)
if os.getppid() != int(sys.argv[1]): sys.exit("the supervisor is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class StartupError(Exception):
    """The process ended, or took too long, before it said that it was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command line, its environment and its log."""

    arguments: Sequence[str]  # of the Python interpreter: ("-m", "services.bitcoin")
    environment: Mapping[str, str]
    log: Path
    inherited: Sequence[int] = ()  # descriptors that it keeps open


class Process:
    """A running process. Its stdout says when it is ready; the rest of what it says is logged."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid
        self.ready: dict[str, Any] | None = None  # what it said of itself

    @classmethod
    async def start(cls, command: Command) -> Self:
        """Starts it and waits until it is ready. Raises StartupError if it has ended instead."""
        with _open_log(command.log) as log:
            process = await asyncio.create_subprocess_exec(
                *leashed(command.arguments),
                env=dict(command.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the supervisor, which knows the order
                pass_fds=tuple(command.inherited),
                umask=OTHERS,
                limit=MAX_LINE_BYTES,
            )
        running = cls(process, command.log)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await running._wait_until_ready()
        except TimeoutError:
            raise StartupError(f"was not ready within {READY_TIMEOUT_S:g} s") from None
        finally:
            if running.ready is None:
                await running.end()
        return running

    async def wait(self) -> int:
        """Returns its exit status, negative for a signal. Logs its output until then."""
        assert self._process.stdout  # noqa: S101  (opened as a pipe)
        with self._log.open("ab") as log:
            while line := await self._process.stdout.readline():
                log.write(line)
                log.flush()
        return await self._process.wait()

    async def stop(self) -> None:
        """Stops it with SIGTERM, and kills it if it takes too long."""
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            await self.end()

    async def end(self) -> None:
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """Kills it; its log and files stay as they were at that moment."""
        if self._process.returncode is None:
            self._process.kill()

    async def _wait_until_ready(self) -> None:
        assert self._process.stdout  # noqa: S101  (opened as a pipe)
        with self._log.open("ab") as log:
            while line := await self._process.stdout.readline():
                self.ready = _ready(line)
                if self.ready is not None:
                    return
                log.write(line)
        raise StartupError(describe(await self._process.wait()))


def leashed(arguments: Sequence[str]) -> list[str]:
    """Returns the command line of a Python process that ends with this process."""
    return [sys.executable, "-ISc", LEASH, str(os.getpid()), sys.executable, *arguments]


def describe(status: int) -> str:
    """Returns an exit status in words."""
    return (
        f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
    )


def last_words(log: Path, *, since: int) -> str:
    """Returns the last line logged after the first ``since`` bytes, or "" if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            said = file.read().decode(errors="replace").strip()
    except OSError:
        return ""
    return said.rpartition("\n")[2]


def _ready(line: bytes) -> dict[str, Any] | None:
    """Parses a ready line; returns None for any other line."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    ready = document.get("ready") if isinstance(document, dict) else None
    return ready if isinstance(ready, dict) else None


def _open_log(path: Path) -> BinaryIO:
    """Opens the log to append, readable by its owner only.

    One old log is kept, so that a log is bounded and a crash can still be read about.
    """
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o666 & ~OTHERS))
