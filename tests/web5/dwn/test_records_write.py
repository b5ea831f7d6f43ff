"""RecordsWrite: order, data and permissions of writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from services.web5.dwn import cid, jws, records_write, values
from tests.web5.dwn.nodes import context_id, members, record_id, verdict

if TYPE_CHECKING:
    from services.web5.proof import Signer
    from tests.web5.dwn.nodes import Node

LARGE = records_write.MAX_INLINE_BYTES + 1


def signed(message: dict[str, Any], author: Signer) -> bytes:
    """Returns the message with a new signature over its current content."""
    descriptor_cid = cid.of_value(message["descriptor"])
    payload = {"recordId": message["recordId"], "descriptorCid": descriptor_cid}
    if "contextId" in message:
        payload["contextId"] = message["contextId"]
    message["authorization"] = {"signature": jws.sign(payload, author)}
    return values.dump(message)


async def test_record_is_read_as_written(node: Node, alice: Signer) -> None:
    write = node.note(alice, b"first")

    written = await node.process(write, b"first")
    reply = await node.read(record_id(write), alice)

    assert (written.code, written.detail) == (202, "Accepted")
    assert reply.code == 200
    assert reply.data == b"first"
    assert members(reply)["entry"]["recordsWrite"] == json.loads(write)


@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, 300_000])
async def test_data_of_any_size_is_read_completely(node: Node, alice: Signer, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    write = node.note(alice, data)

    await node.process(write, data)
    reply = await node.read(record_id(write), alice)

    assert reply.data == data


async def test_update_replaces_the_data_and_shows_the_initial_write(
    node: Node, alice: Signer
) -> None:
    first = node.note(alice, b"first", tags={"mood": "glad"})
    await node.process(first, b"first")
    second = records_write.update(first, b"second", alice, node.now)

    updated = await node.process(second, b"second")
    reply = await node.read(record_id(first), alice)

    assert updated.code == 202
    assert reply.data == b"second"
    assert members(reply)["entry"] == {
        "recordsWrite": json.loads(second),
        "initialWrite": json.loads(first),
    }


@pytest.mark.parametrize("size", [10, LARGE])
async def test_update_without_data_keeps_the_data(node: Node, alice: Signer, size: int) -> None:
    data = b"x" * size
    first = node.note(alice, data)
    await node.process(first, data)
    second = records_write.update(
        first, data, alice, node.now, published=True, datePublished="2026-01-31T12:00:00.000000Z"
    )

    updated = await node.process(second)
    reply = await node.read(record_id(first), None)

    assert updated.code == 202
    assert reply.data == data


async def test_update_without_data_must_name_the_existing_data(node: Node, alice: Signer) -> None:
    first = node.note(alice, b"first")
    await node.process(first, b"first")

    reply = await node.process(records_write.update(first, b"other", alice, node.now))

    assert verdict(reply) == (400, "RecordsWriteDataCidMismatch")


async def test_initial_write_without_data_is_stored_but_not_found(
    node: Node, alice: Signer
) -> None:
    write = node.note(alice)

    written = await node.process(write)
    reply = await node.read(record_id(write), alice)

    assert (written.code, written.detail) == (204, "No Content")
    assert reply.code == 404


async def test_update_provides_the_data_that_the_initial_write_lacks(
    node: Node, alice: Signer
) -> None:
    first = node.note(alice, b"first")
    await node.process(first)
    bare = await node.process(records_write.update(first, b"first", alice, node.now))
    second = records_write.update(first, b"second", alice, node.now)

    await node.process(second, b"second")
    reply = await node.read(record_id(first), alice)

    assert verdict(bare) == (400, "RecordsWriteMissingEncodedDataInPrevious")
    assert reply.data == b"second"


async def test_repeated_message_is_a_conflict(node: Node, alice: Signer) -> None:
    write = node.note(alice)
    await node.process(write, b"note")

    reply = await node.process(write, b"note")

    assert (reply.code, reply.detail) == (409, "Conflict")


async def test_older_update_does_not_replace_a_newer_one(node: Node, alice: Signer) -> None:
    first = node.note(alice, b"first")
    await node.process(first, b"first")
    older = records_write.update(first, b"older", alice, node.now)
    newer = records_write.update(first, b"newer", alice, node.now)
    await node.process(newer, b"newer")

    reply = await node.process(older, b"older")

    assert reply.code == 409
    assert (await node.read(record_id(first), alice)).data == b"newer"


async def test_larger_cid_wins_between_updates_of_equal_timestamp(
    node: Node, alice: Signer
) -> None:
    first = node.note(alice, b"first")
    await node.process(first, b"first")
    moment = node.now
    updates = {
        cid.of_message(json.loads(update)): (update, data)
        for data in (b"one", b"other")
        for update in [records_write.update(first, data, alice, moment)]
    }
    loser, winner = (updates[name] for name in sorted(updates))

    await node.process(*winner)
    reply = await node.process(*loser)

    assert reply.code == 409
    assert (await node.read(record_id(first), alice)).data == winner[1]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"tampered", "RecordsWriteDataCidMismatch"),
        (b"", "RecordsWriteDataCidMismatch"),
        (b"notes", "RecordsWriteDataCidMismatch"),
    ],
)
async def test_data_with_another_cid_is_refused(
    node: Node, alice: Signer, data: bytes, code: str
) -> None:
    write = node.note(alice, b"note")

    reply = await node.process(write, data)

    assert verdict(reply) == (400, code)
    assert (await node.read(record_id(write), alice)).code == 404


async def test_descriptor_with_another_data_size_is_refused(node: Node, alice: Signer) -> None:
    message = json.loads(node.note(alice, b"note"))
    message["descriptor"]["dataSize"] = 5
    message["recordId"] = records_write.entry_id(message["descriptor"], alice.did)

    reply = await node.process(signed(message, alice), b"note")

    assert verdict(reply) == (400, "RecordsWriteDataSizeMismatch")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"dataFormat": "text/html"}, "AuthenticateDescriptorCidMismatch"),
        ({"recipient": "did:key:z6MkExample"}, "AuthenticateDescriptorCidMismatch"),
        ({"surprise": 1}, "SchemaValidatorAdditionalPropertyNotAllowed"),
    ],
)
async def test_descriptor_altered_after_signing_is_refused(
    node: Node, alice: Signer, change: dict[str, Any], code: str
) -> None:
    message = json.loads(node.note(alice))
    message["descriptor"] |= change

    reply = await node.process(values.dump(message), b"note")

    assert verdict(reply) == (400, code)


async def test_immutable_property_cannot_be_updated(node: Node, alice: Signer, bob: Signer) -> None:
    first = node.note(alice, recipient=bob.did)
    await node.process(first, b"note")
    update = records_write.update(first, b"note", alice, node.now, recipient=alice.did)

    reply = await node.process(update, b"note")

    assert verdict(reply) == (400, "RecordsWriteImmutablePropertyChanged")


async def test_update_without_an_initial_write_is_refused(node: Node, alice: Signer) -> None:
    first = node.note(alice)

    reply = await node.process(records_write.update(first, b"note", alice, node.now), b"note")

    assert verdict(reply) == (400, "RecordsWriteGetInitialWriteNotFound")


async def test_initial_write_must_have_equal_timestamp_and_date_created(
    node: Node, alice: Signer
) -> None:
    message = json.loads(node.note(alice))
    message["descriptor"]["dateCreated"] = "2025-01-01T00:00:00.000000Z"
    message["recordId"] = records_write.entry_id(message["descriptor"], alice.did)

    reply = await node.process(signed(message, alice), b"note")

    assert verdict(reply) == (400, "RecordsWriteValidateIntegrityDateCreatedMismatch")


async def test_write_without_a_protocol_is_refused_for_others(node: Node, bob: Signer) -> None:
    reply = await node.process(node.note(bob), b"note")

    assert verdict(reply) == (401, "RecordsWriteAuthorizationFailed")


async def test_invalid_reference_is_reported_before_an_invalid_signature(
    node: Node, bob: Signer
) -> None:
    message = json.loads(node.note(bob, protocolPath="note"))
    entry = message["authorization"]["signature"]["signatures"][0]
    entry["signature"] = "A" * 86

    reply = await node.process(values.dump(message), b"note")

    assert verdict(reply) == (400, "ProtocolAuthorizationProtocolNotFound")


async def test_unsigned_context_id_is_refused(node: Node, alice: Signer) -> None:
    await node.configure({"note": {}}, note={})
    message = json.loads(node.note(alice, protocolPath="note"))
    unsigned = {"recordId": message["recordId"], "descriptor": message["descriptor"]}
    signature = json.loads(signed(unsigned, alice))["authorization"]
    elsewhere = message | {"contextId": "elsewhere"}

    without = await node.process(values.dump(message | {"authorization": signature}), b"note")
    moved = await node.process(signed(elsewhere, alice), b"note")

    assert verdict(without) == (
        400,
        "RecordsWriteValidateIntegrityContextIdNotInSignerSignaturePayload",
    )
    assert verdict(moved) == (400, "RecordsWriteValidateIntegrityContextIdMismatch")
    assert context_id(values.dump(message)) == message["recordId"]


async def test_event_log_has_each_accepted_message_in_order(node: Node, alice: Signer) -> None:
    first = node.note(alice, b"first")
    second = records_write.update(first, b"second", alice, node.now)
    third = records_write.update(first, b"third", alice, node.now)
    for write, data in ((first, b"first"), (second, b"second"), (third, b"third")):
        await node.process(write, data)

    rows = await node.database.read(
        lambda tx: tx.fetch(
            "SELECT sequence, message_cid FROM dwn_event WHERE tenant = ? ORDER BY sequence",
            alice.did,
        )
    )

    # The first event is the payment protocol; the fourth write superseded the third.
    assert [sequence for sequence, _ in rows] == [1, 2, 4]
    assert rows[-1][1] == cid.of_message(json.loads(third))
