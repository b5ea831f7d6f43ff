"""Records of payments: written once, in the service's node, readable by the payer only."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from mesh.data import outbox
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import AlreadyExists, InvalidArgument, NotFound
from services.web5 import payment_record
from services.web5.dwn import protocols, records_query, records_read, unixfs, values
from services.web5.store.dwn.node import Dwn
from tests.web5.dwn.nodes import members, verdict

if TYPE_CHECKING:
    from services.web5.proof import Signer
    from services.web5.store.dwn.node import TransactionRecord
    from tests.web5.dwn.nodes import Node

PAYMENT = {
    "bitcoin_txid": "ab" * 32,
    "amount": 2_100_000_000_000_000.0,  # a Struct holds doubles only
    "verification_score": 0.95,
    "risk_assessment": {"risk_score": 0.1, "risk_factors": ["new recipient"]},
}


def request(node: Node, request_id: str = "run/record/1", body: bytes = b"") -> IdempotencyKey:
    return IdempotencyKey(
        node.owner.did, "StoreTransactionRecord", request_id, hashlib.sha256(body).digest()
    )


def formatted(record: TransactionRecord) -> bytes:
    return values.dump(
        {
            "tenant": record.tenant,
            "record_id": record.record_id,
            "message_cid": record.message_cid,
            "data_cid": record.data_cid,
        }
    )


async def stored(node: Node, payer: Signer, key: IdempotencyKey | None = None) -> Any:
    reply = await node.records.store_transaction_record(
        key or request(node), payer.did, PAYMENT, payment_id="p-1", reply=formatted
    )
    return json.loads(reply)


async def announced(node: Node) -> list[str]:
    """Returns the record ids of this node's events in the outbox."""
    events = await node.database.read(lambda tx: outbox.read(tx, after=0, limit=10_000))
    written = [event for event in events if event.type == "web5.record.written"]
    return [event.key for event in written if json.loads(event.data)["tenant"] == node.owner.did]


async def test_payer_reads_the_record_with_its_own_signature(node: Node, bob: Signer) -> None:
    record = await stored(node, bob)

    reply = await node.read(record["record_id"], bob)

    assert reply.data is not None
    assert json.loads(reply.data) == PAYMENT
    assert unixfs.data_cid(reply.data) == record["data_cid"]
    descriptor = members(reply)["entry"]["recordsWrite"]["descriptor"]
    assert descriptor["dataCid"] == record["data_cid"]
    assert descriptor["recipient"] == bob.did
    assert descriptor["tags"] == {"requestId": "run/record/1", "paymentId": "p-1"}


async def test_payer_finds_the_record_by_payment_id(node: Node, bob: Signer) -> None:
    record = await stored(node, bob)
    query = records_query.create({"tags": {"paymentId": "p-1"}}, node.now, bob)

    reply = await node.process(query)

    assert [entry["recordId"] for entry in members(reply)["entries"]] == [record["record_id"]]


async def test_other_readers_cannot_read_or_find_the_record(
    node: Node, bob: Signer, carol: Signer
) -> None:
    record = await stored(node, bob)
    query = {"protocol": payment_record.PROTOCOL}

    stranger = await node.read(record["record_id"], carol)
    anonymous = await node.read(record["record_id"], None)
    found = [
        members(await node.process(records_query.create(query, node.now, reader)))["entries"]
        for reader in (carol, None)
    ]

    assert stranger.code == anonymous.code == 401
    assert stranger.data is None
    assert found == [[], []]


async def test_integral_amounts_are_integers_in_the_data(node: Node, bob: Signer) -> None:
    record = await stored(node, bob)

    reply = await node.read(record["record_id"], bob)

    assert b'"amount":2100000000000000,' in (reply.data or b"")


async def test_retry_returns_the_first_record_and_writes_no_other(node: Node, bob: Signer) -> None:
    first = await stored(node, bob)
    second = await stored(node, bob)

    assert second == first
    assert await announced(node) == [first["record_id"]]


async def test_payments_with_equal_data_have_separate_records(node: Node, bob: Signer) -> None:
    first = await stored(node, bob, request(node, "run-1/record/1"))
    second = await stored(node, bob, request(node, "run-2/record/1"))

    assert first["record_id"] != second["record_id"]
    assert first["data_cid"] == second["data_cid"]


async def test_request_id_with_another_body_is_refused(node: Node, bob: Signer) -> None:
    await stored(node, bob, request(node, body=b"one"))

    with pytest.raises(AlreadyExists):
        await stored(node, bob, request(node, body=b"other"))


@pytest.mark.parametrize(
    ("payer", "transaction", "field"),
    [
        ("bob", {}, "did"),
        ("did:key:z6Mk#fragment", {}, "did"),
        ("did:web:" + "a" * 1024, {}, "did"),
        (None, {"note": "x" * 30_000}, "transaction_data"),
        (None, {"amount": float("nan")}, "transaction_data"),
        (None, {"amount": float("inf")}, "transaction_data"),
    ],
)
async def test_error_of_invalid_record_data_names_the_field(
    node: Node, bob: Signer, payer: str | None, transaction: Any, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        await node.records.store_transaction_record(
            request(node), payer or bob.did, transaction, reply=formatted
        )

    assert refusal.value.field == field


async def test_restarted_service_keeps_its_protocol(node: Node) -> None:
    again = Dwn(node.database, node.owner, node.clock)
    query = protocols.query(payment_record.PROTOCOL, node.now)
    before = await node.process(query)

    await again.open()
    after = await node.process(query)

    assert after.json() == before.json()
    definition = members(after)["entries"][0]["descriptor"]["definition"]
    assert definition == payment_record.DEFINITION


async def test_only_the_service_may_write_payment_records(node: Node, bob: Signer) -> None:
    write = node.note(
        bob,
        b"{}",
        protocol=payment_record.PROTOCOL,
        protocolPath=payment_record.PATH,
        schema=payment_record.SCHEMA,
        dataFormat=payment_record.DATA_FORMAT,
        tags={"requestId": "mine"},
    )

    reply = await node.process(write, b"{}")

    assert verdict(reply) == (401, "ProtocolAuthorizationActionRulesNotFound")


async def test_unknown_tenant_is_not_found(node: Node, bob: Signer) -> None:
    with pytest.raises(NotFound) as refusal:
        await node.records.process_message(
            bob.did, records_read.create({"recordId": "a"}, node.now, bob)
        )

    assert refusal.value.field == "target"
