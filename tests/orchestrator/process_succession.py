"""Orchestrator processes on one store, one after the other: each finds the runs of the last."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import grpc

from mesh.data.database import POSTGRES_SCHEMES
from tests.orchestrator.conftest import connect
from tests.orchestrator.processes import environment_of, process

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority

DIES_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Succession:
    authority: Authority
    environment: dict[str, str]

    @classmethod
    def on(
        cls, location: str, authority: Authority, home: Path, peers: Mapping[str, str]
    ) -> Succession:
        environment = environment_of(authority, home, peers)
        return cls(authority, environment | {"ANYA_DATABASE": location})

    @asynccontextmanager
    async def next(self, **more: str) -> AsyncIterator[tuple[Process, WorkflowServiceAsyncStub]]:
        """Starts the next process, after the leases of killed ones have ended."""
        await self._end_leases()
        async with self.next_beside(**more) as living:
            yield living

    @asynccontextmanager
    async def next_beside(
        self, **more: str
    ) -> AsyncIterator[tuple[Process, WorkflowServiceAsyncStub]]:
        """Starts a process beside others; their runs are claimed when their leases end."""
        async with (
            process(self.environment | more) as (child, port),
            connect(self.authority, port) as workflows,
        ):
            yield child, workflows

    @asynccontextmanager
    async def next_until(self, failpoint: str) -> AsyncIterator[WorkflowServiceAsyncStub]:
        """Starts a process that is killed at the failpoint; calls in the block may fail with it."""
        async with self.next(ANYA_FAILPOINTS=f"{failpoint}=kill") as (child, workflows):
            with suppress(grpc.aio.AioRpcError):
                yield workflows
            await asyncio.wait_for(child.wait(), DIES_WITHIN_S)
            assert child.returncode == -signal.SIGKILL

    async def _end_leases(self) -> None:
        """Ends the leases of killed processes, as time would."""
        url = self.environment["ANYA_DATABASE"]
        if not url.startswith(POSTGRES_SCHEMES):
            return
        connection = await asyncpg.connect(url)
        try:
            if await connection.fetchval("SELECT to_regclass('replica') IS NOT NULL"):
                await connection.execute("UPDATE replica SET lease_until = now() - interval '1ms'")
        finally:
            await connection.close()
