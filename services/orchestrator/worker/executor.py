"""Performs the commands of runs: calls other services, and waits for due times."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.orchestrator.actors.run_messages import CommandEnded, CommandFailed
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    Due,
    Failed,
    Replied,
    WaitCommand,
)
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.worker.run_spans import CANCEL
from services.orchestrator.worker.store_retry import sleep_unless_stopping

if TYPE_CHECKING:
    from mesh.data.lease import Lease
    from services.orchestrator.config import OrchestratorConfig
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.peers import Peers
    from services.orchestrator.worker.run_spans import RunSpans


class CommandExecutor:
    """Performs commands; at most ``config.max_concurrent_steps`` calls are in flight at once."""

    def __init__(
        self, peers: Peers, lease: Lease, config: OrchestratorConfig, stopping: asyncio.Event
    ) -> None:
        self._peers = peers
        self._lease = lease
        self._timeout_s = config.policy.attempt_timeout_s
        self._calls = asyncio.Semaphore(config.max_concurrent_steps)
        self._stopping = stopping

    async def perform(
        self, command: Command, spans: RunSpans, clock_offset_us: int
    ) -> CommandEnded | CommandFailed | None:
        """Performs the command; returns what the run is sent, or None if the service stops first.

        ``clock_offset_us`` is added to the store's clock. An error boundary: the run's next turn
        raises a defect.
        """
        result: Activation
        try:
            match command:
                case CallCommand():
                    path = command.path
                    with spans.calling(path, command.attempt):
                        reply = await self._call(
                            command.service, command.method, command.request, command.timeout_s
                        )
                    if reply is None:
                        return None
                    result = (
                        Failed(path, reply)
                        if isinstance(reply, StepError)
                        else Replied(path, reply)
                    )
                case CancelCommand(path, attempt, service, method, request, at_us):
                    if not await self._sleep_until(at_us - clock_offset_us):
                        return None
                    with spans.calling(path, CANCEL, attempt):
                        reply = await self._call(service, method, request, self._timeout_s)
                    if reply is None:
                        return None
                    result = (
                        CancelFailed(path, reply)
                        if isinstance(reply, StepError)
                        else CancelReplied(path)
                    )
                case WaitCommand(path, until_us):
                    if not await self._sleep_until(until_us - clock_offset_us):
                        return None
                    result = Due(path)
        except Exception as error:
            return CommandFailed(command, error)
        return CommandEnded(command, result)

    async def _call(
        self, service: str, method: str, request: bytes, timeout_s: float
    ) -> bytes | StepError | None:
        """Makes the call once it is one of few. Returns None if the service stops first."""
        async with self._calls:
            if not self._lease.is_held:  # another process may be about to make this call
                await self._lease.held()
            if self._stopping.is_set():
                return None
            return await self._peers.call(service, method, request, timeout=timeout_s)

    async def _sleep_until(self, until_us: int) -> bool:
        """Sleeps until then, by the store's clock. Returns False if the service stops first."""
        # The estimate of the store's clock may be corrected backwards during the sleep.
        while (seconds := (until_us - self._lease.now_us()) / SECOND_US) > 0:
            if await sleep_unless_stopping(self._stopping, seconds):
                return False
        return True
