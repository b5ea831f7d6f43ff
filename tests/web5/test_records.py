"""Records of payments and the messages of their payers, over gRPC."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from anya.mesh.v1.attestation_pb2 import RunContext
from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from anya.web5.v1 import record_pb2 as pb
from mesh.testing import reason
from services.web5.dwn import records_query, records_read, records_write, unixfs
from tests.web5.conftest import start
from tests.web5.holder import intent, signer

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.web5.config import Web5Config
    from services.web5.proof import Signer
    from tests.web5.conftest import Running
    from tests.web5.holder import Payer

PAYMENT = {
    "bitcoin_txid": "ab" * 32,
    "amount": 50_000,
    "recipient": "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk",
    "verification_score": 0.95,
    "risk_assessment": {"risk_score": 0.25, "risk_factors": []},
}

STRANGER = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def now() -> datetime:
    return datetime.now(UTC)


def record_of(payer: Signer, request_id: str = "run/record/1") -> pb.StoreTransactionRecordRequest:
    return pb.StoreTransactionRecordRequest(
        request_id=request_id,
        did=payer.did,
        transaction_data=json_format.ParseDict(PAYMENT, Struct()),
        context=RunContext(intent=intent(payer, payment_id="p-1")),
    )


async def process(
    running: Running, message: bytes, data: bytes | None = None
) -> tuple[Any, bytes | None]:
    request = pb.ProcessMessageRequest(target=running.did, message=message, data=data)
    response = await running.records.ProcessMessage(request, timeout=5)
    return json.loads(response.reply), response.data if response.HasField("data") else None


async def test_payer_reads_the_record_that_the_orchestrator_stored(
    running: Running, payer: Payer
) -> None:
    record = await running.bookkeeping.StoreTransactionRecord(record_of(payer.holder), timeout=5)

    message = records_read.create({"recordId": record.record_id}, now(), payer.holder)
    reply, data = await process(running, message)

    assert record.tenant == running.did
    assert reply["status"] == {"code": 200, "detail": "OK"}
    assert data is not None
    assert json.loads(data) == PAYMENT
    assert unixfs.data_cid(data) == record.data_cid
    assert reply["entry"]["recordsWrite"]["descriptor"]["tags"]["paymentId"] == "p-1"


async def test_reader_without_permission_gets_status_401(running: Running, payer: Payer) -> None:
    record = await running.bookkeeping.StoreTransactionRecord(record_of(payer.holder), timeout=5)

    message = records_read.create({"recordId": record.record_id}, now(), signer())
    reply, data = await process(running, message)

    assert reply["status"]["code"] == 401
    assert data is None


async def test_read_altered_in_transit_is_refused(running: Running, payer: Payer) -> None:
    record = await running.bookkeeping.StoreTransactionRecord(record_of(payer.holder), timeout=5)
    message = json.loads(records_read.create({"recordId": "another"}, now(), payer.holder))
    message["descriptor"]["filter"]["recordId"] = record.record_id

    reply, data = await process(running, json.dumps(message).encode())

    assert reply["status"]["code"] == 400
    assert reply["status"]["detail"].startswith("AuthenticateDescriptorCidMismatch: ")
    assert data is None


async def test_concurrent_attempts_store_one_record(running: Running, payer: Payer) -> None:
    request = record_of(payer.holder)

    replies = await asyncio.gather(
        *(running.bookkeeping.StoreTransactionRecord(request, timeout=10) for _ in range(10))
    )

    assert {reply.record_id for reply in replies} == {replies[0].record_id}
    outbox = OutboxServiceStub(running.orchestrator)
    page = await outbox.ReadOutbox(ReadOutboxRequest(), timeout=5)
    written = [entry.event for entry in page.entries if entry.event.type == "web5.record.written"]
    assert len(written) == 1
    assert json.loads(written[0].binary_data)["record_id"] == replies[0].record_id


async def test_record_survives_a_restart(
    config: Web5Config, authority: Authority, payer: Payer
) -> None:
    async with start(config, authority) as running:
        first = await running.bookkeeping.StoreTransactionRecord(record_of(payer.holder), timeout=5)

    async with start(config, authority) as running:
        again = await running.bookkeeping.StoreTransactionRecord(record_of(payer.holder), timeout=5)
        query = records_query.create({"tags": {"paymentId": "p-1"}}, now(), payer.holder)
        reply, _ = await process(running, query)

    assert again == first
    assert [entry["recordId"] for entry in reply["entries"]] == [first.record_id]


async def test_absent_data_differs_from_empty_data(running: Running, payer: Payer) -> None:
    write = records_write.create(b"", payer.holder, now(), data_format="text/plain")

    absent, _ = await process(running, write)
    empty, _ = await process(running, write, b"")

    # Neither is permitted, but both reach the checks of the node.
    assert absent["status"]["code"] == empty["status"]["code"] == 401


@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        ({"target": STRANGER}, grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND"),
        ({"message": b"{"}, INVALID, "MESSAGE_MALFORMED"),
        ({"message": b'{"descriptor":{},"descriptor":{}}'}, INVALID, "MESSAGE_MALFORMED"),
        ({"message": b" " * 65_537}, INVALID, "MESSAGE_TOO_LARGE"),
        ({"data": bytes(3 * 2**20 + 1)}, INVALID, "MESSAGE_TOO_LARGE"),
    ],
    ids=["another tenant", "not JSON", "two readings", "long message", "much data"],
)
async def test_malformed_message_or_unknown_tenant_is_an_rpc_error(
    running: Running, changes: dict[str, Any], code: grpc.StatusCode, why: str
) -> None:
    fields = {"target": running.did, "message": records_read.create({"recordId": "a"}, now())}

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await running.records.ProcessMessage(
            pb.ProcessMessageRequest(**(fields | changes)), timeout=5
        )

    assert refusal.value.code() is code
    assert reason(refusal.value) == why


async def test_only_the_orchestrator_may_store_payment_records(
    running: Running, payer: Payer
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await running.records.StoreTransactionRecord(record_of(payer.holder), timeout=5)

    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
