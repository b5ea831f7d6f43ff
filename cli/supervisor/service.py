"""One service of the mesh: its process, and the processes that take its place."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cli.errors import CommandError
from cli.supervisor.process import Command, Process, StartupError, describe, last_words
from cli.supervisor.restart_policy import RestartLimits, RestartPolicy
from mesh.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

FAILPOINTS = "ANYA_FAILPOINTS"


@dataclass(frozen=True, slots=True)
class Crash:
    """A process ended that was not stopped."""

    service: str
    how: str  # "was killed by SIGKILL"


class Service:
    """Keeps one process of a service running. ``run`` is its life, in a task of its own."""

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        report: Callable[[Crash], None],
        limits: RestartLimits | None = None,
    ) -> None:
        self.name = name
        self.restarts = 0  # after crashes; one that was asked for does not count
        self._command = command
        self._replacement: Command | None = None  # what a restart that was asked for runs
        self._report = report
        self._restart_policy = RestartPolicy(SystemClock(), limits or RestartLimits())
        self._process: Process | None = None  # while it is ready
        self._since = 0.0
        self._log_from = 0  # where the log of the latest process begins
        self._ready = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Returns once stopped. Raises CommandError if it does not start, or crashes too often."""
        command = self._command
        while not self._stopping:
            how = await self._live(command)
            if self._stopping:
                return
            if self._replacement is not None:
                command, self._replacement = self._replacement, None
                continue
            await self._pause(how)
            self.restarts += 1
            command = _with_failpoints(self._command, "")

    async def until_ready(self) -> None:
        await self._ready.wait()

    async def restart(self, *, failpoints: str = "") -> None:
        """Stops the process and starts another, which is ready on return.

        Failpoints are for that one process: when it crashes, the next comes up without.
        """
        await self._ready.wait()
        self._replacement = _with_failpoints(self._command, failpoints)
        self._ready.clear()
        await self._stop_process()
        await self._ready.wait()

    async def stop(self) -> None:
        """Stops the process and starts no other."""
        self._stopping = True
        await self._stop_process()

    def kill(self) -> None:
        """Kills the process."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()

    def status(self) -> dict[str, Any]:
        """Returns the status that the control socket reports."""
        process = self._process
        return {
            "state": "ready" if process else "starting",
            "pid": process.pid if process else None,
            "restarts": self.restarts,
            "uptime_seconds": round(time.monotonic() - self._since, 1) if process else 0.0,
        }

    async def _live(self, command: Command) -> str:
        """Runs one process; returns how it ended. Raises CommandError if the first cannot start."""
        log = command.log
        self._log_from = log.stat().st_size if log.exists() else 0
        try:
            self._process = await Process.start(command)
        except StartupError as error:
            if not self._since:
                raise self._gave_up(f"{self.name} did not start: it {error}") from None
            return str(error)
        if self._stopping:  # stopped while it was starting
            await self._process.stop()
        self._since = time.monotonic()
        self._ready.set()
        status = await self._process.wait()
        self._process = None
        self._ready.clear()
        return describe(status)

    async def _pause(self, how: str) -> None:
        """Reports a crash and waits before the next start. Raises CommandError at the limit."""
        self._report(Crash(self.name, how))
        wait = self._restart_policy.crashed()
        if wait is None:
            raise self._gave_up(f"{self.name} crashed too often; the last time it {how}")
        await asyncio.sleep(wait)

    async def _stop_process(self) -> None:
        if self._process is not None:
            await self._process.stop()

    def _gave_up(self, what: str) -> CommandError:
        log = self._command.log
        said = last_words(log, since=self._log_from)
        return CommandError(
            f"{what}: {said}" if said else what,
            code="UNAVAILABLE",
            reason="SERVICE_DOWN",
            remedy=f"read {log}",
        )


def _with_failpoints(command: Command, failpoints: str) -> Command:
    environment = {name: value for name, value in command.environment.items() if name != FAILPOINTS}
    if failpoints:
        environment[FAILPOINTS] = failpoints
    return replace(command, environment=environment)
