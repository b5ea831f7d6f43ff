"""Erasure of runs through gRPC, and what is left in the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.orchestrator.v1 import workflow_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub


async def erase(
    workflows: WorkflowServiceAsyncStub, run_id: str, request_id: str = "e"
) -> pb.EraseRunResponse:
    request = pb.EraseRunRequest(request_id=request_id, run_id=run_id)
    return await workflows.EraseRun(request, timeout=10)


async def get(workflows: WorkflowServiceAsyncStub, run_id: str) -> pb.Run:
    return (await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)).run


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("orchestrator.db*")))
