"""The servicers that every service has: the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.mesh.v1 import outbox_pb2 as pb
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceServicer
from anya.standard.cloudevents.v1.cloudevents_pb2 import CloudEvent
from mesh.data import outbox
from mesh.rpc.paging import page_size

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mesh.data.database import Database, Transaction

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class OutboxServicer(OutboxServiceServicer):
    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._source = f"anya/{service}"

    async def ReadOutbox(
        self,
        request: pb.ReadOutboxRequest,
        context: ServicerContext[pb.ReadOutboxRequest, pb.ReadOutboxResponse],
    ) -> pb.ReadOutboxResponse:
        limit = page_size(request.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE)

        async def work(tx: Transaction) -> list[outbox.OutboxEvent]:
            return await outbox.read(tx, after=request.after_sequence, limit=limit)

        events = await self._database.read(work)
        return pb.ReadOutboxResponse(entries=[self._format(event) for event in events])

    def _format(self, event: outbox.OutboxEvent) -> pb.ReadOutboxResponse.Entry:
        cloud = CloudEvent(
            id=event.id,
            source=self._source,
            spec_version="1.0",
            type=event.type,
            binary_data=event.data,
        )
        cloud.attributes["subject"].ce_string = event.key
        cloud.attributes["time"].ce_timestamp.FromDatetime(event.recorded_at)
        if event.data:
            cloud.attributes["datacontenttype"].ce_string = "application/json"
        if event.traceparent:
            cloud.attributes["traceparent"].ce_string = event.traceparent
        return pb.ReadOutboxResponse.Entry(sequence=event.sequence, event=cloud)
