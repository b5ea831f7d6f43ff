"""RecordService: stores records of payments, and processes DWN messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anya.web5.v1 import record_pb2 as pb
from anya.web5.v1.record_pb2_grpc import RecordServiceServicer
from mesh.rpc.interceptors import request_key

if TYPE_CHECKING:
    from typing import Any

    from google.protobuf.struct_pb2 import Struct, Value
    from grpc.aio import ServicerContext

    from services.web5.store.dwn.node import Dwn, TransactionRecord


class RecordServicer(RecordServiceServicer):
    def __init__(self, dwn: Dwn) -> None:
        self._dwn = dwn

    async def StoreTransactionRecord(
        self,
        request: pb.StoreTransactionRecordRequest,
        context: ServicerContext[
            pb.StoreTransactionRecordRequest, pb.StoreTransactionRecordResponse
        ],
    ) -> pb.StoreTransactionRecordResponse:
        first = await self._dwn.store_transaction_record(
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
        reply = await self._dwn.process_message(request.target, request.message, data)
        return pb.ProcessMessageResponse(reply=reply.json(), data=reply.data)


def _parse_struct(struct: Struct) -> dict[str, Any]:
    """Returns the struct as a dict; numbers stay doubles, which ``values.normal`` converts."""
    return {name: _parse_value(value) for name, value in struct.fields.items()}


def _parse_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _parse_struct(value.struct_value)
        case "list_value":
            return [_parse_value(item) for item in value.list_value.values]
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _format_record(record: TransactionRecord) -> bytes:
    return pb.StoreTransactionRecordResponse(
        tenant=record.tenant,
        record_id=record.record_id,
        message_cid=record.message_cid,
        data_cid=record.data_cid,
    ).SerializeToString()
