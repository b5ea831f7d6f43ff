"""RecordService over gRPC: parse, ask the nodes, format. No rules live here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format

from anya.web5.v1 import record_pb2 as pb
from anya.web5.v1.record_pb2_grpc import RecordServiceServicer
from mesh.errors import InvalidArgument
from mesh.interceptors import request_key

if TYPE_CHECKING:
    from typing import Any

    from google.protobuf.struct_pb2 import Struct
    from grpc.aio import ServicerContext

    from services.web5.records import Records, TransactionRecord


class RecordServicer(RecordServiceServicer):
    def __init__(self, records: Records) -> None:
        self._records = records

    async def StoreTransactionRecord(
        self,
        request: pb.StoreTransactionRecordRequest,
        context: ServicerContext[
            pb.StoreTransactionRecordRequest, pb.StoreTransactionRecordResponse
        ],
    ) -> pb.StoreTransactionRecordResponse:
        first = await self._records.store_transaction_record(
            request_key.current(),
            request.did,
            _parse_struct(request.transaction_data),
            payment_id=request.context.intent.payment_id,
            reply=_format_record,
        )
        return pb.StoreTransactionRecordResponse.FromString(first)

    async def ProcessMessage(
        self,
        request: pb.ProcessMessageRequest,
        context: ServicerContext[pb.ProcessMessageRequest, pb.ProcessMessageResponse],
    ) -> pb.ProcessMessageResponse:
        data = request.data if request.HasField("data") else None
        reply = await self._records.process(request.target, request.message, data)
        return pb.ProcessMessageResponse(reply=reply.json(), data=reply.data)


def _parse_struct(struct: Struct) -> dict[str, Any]:
    try:
        return json_format.MessageToDict(struct)
    except json_format.SerializeToJsonError as error:
        raise InvalidArgument(f"transaction_data: {error}", field="transaction_data") from None


def _format_record(record: TransactionRecord) -> bytes:
    return pb.StoreTransactionRecordResponse(
        tenant=record.tenant,
        record_id=record.record_id,
        message_cid=record.message_cid,
        data_cid=record.data_cid,
    ).SerializeToString()
