"""A whole service of one RPC, in bitcoin's name: what tests of the runtime run."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from anya.mesh.v1 import outbox_pb2 as pb
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceServicer, add_OutboxServiceServicer_to_server
from mesh import process
from mesh.config import MeshConfig
from mesh.rpc.interceptors import tracing, trust
from mesh.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from grpc.aio import ServicerContext

    from mesh.runtime import Ports


WAIT, RELEASE = 100, 101  # after_sequence of a call that waits, and of the call that releases it


class Outbox(OutboxServiceServicer):
    """Returns one event with what the interceptors made known to the servicer."""

    def __init__(self) -> None:
        self._released = asyncio.Event()

    async def ReadOutbox(  # noqa: N802
        self,
        request: pb.ReadOutboxRequest,
        context: ServicerContext[pb.ReadOutboxRequest, pb.ReadOutboxResponse],
    ) -> pb.ReadOutboxResponse:
        if request.after_sequence == WAIT:
            await self._released.wait()
        elif request.after_sequence == RELEASE:
            self._released.set()
        entry = pb.ReadOutboxResponse.Entry(sequence=request.after_sequence + 1)
        entry.event.type = trust.current_bounds().boundary
        remote = tracing.remote_parent()
        entry.event.id = f"{remote.span_id:016x}" if remote else ""
        return pb.ReadOutboxResponse(entries=[entry])


@asynccontextmanager
async def outbox_service(config: MeshConfig) -> AsyncIterator[Ports]:
    async with (
        open_runtime(config) as runtime,
        runtime.serve(partial(add_OutboxServiceServicer_to_server, Outbox())) as ports,
    ):
        yield ports


def configure(environment: Mapping[str, str]) -> MeshConfig:
    return MeshConfig.from_environment(environment, service="bitcoin")


if __name__ == "__main__":
    sys.exit(process.run("bitcoin", configure, outbox_service))
