"""RecordsDelete: deletes the data and keeps the initial write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from services.web5.dwn import records_delete, records_query, records_write
from tests.web5.dwn.nodes import context_id, members, record_id, verdict

if TYPE_CHECKING:
    from services.web5.proof import Signer
    from tests.web5.dwn.nodes import Node

RULES = [
    {"who": "anyone", "can": ["create", "delete"]},
    {"who": "recipient", "can": ["co-delete"]},
]


@pytest.mark.parametrize("size", [4, 40_000])
async def test_delete_keeps_the_initial_write_without_data(
    node: Node, alice: Signer, size: int
) -> None:
    first = node.note(alice, b"x" * size)
    await node.process(first, b"x" * size)
    delete = records_delete.create(record_id(first), alice, node.now)

    deleted = await node.process(delete)
    reply = await node.read(record_id(first), alice)
    query = records_query.create({"recordId": record_id(first)}, node.now, alice)

    assert (deleted.code, reply.code, reply.data) == (202, 404, None)
    assert members(reply)["entry"] == {
        "recordsDelete": json.loads(delete),
        "initialWrite": json.loads(first),
    }
    assert members(await node.process(query))["entries"] == []
    assert await kept_data(node) == []


async def kept_data(node: Node) -> list[str]:
    """Returns the data of records that is still stored."""
    rows = await node.database.read(
        lambda tx: tx.fetch(
            "SELECT message_cid FROM dwn_message WHERE tenant = ? AND data IS NOT NULL"
            " UNION SELECT data_cid FROM dwn_blob WHERE tenant = ?",
            node.owner.did,
            node.owner.did,
        )
    )
    return [row[0] for row in rows]


async def test_deleted_record_cannot_be_deleted_or_written_again(node: Node, alice: Signer) -> None:
    first = node.note(alice)
    await node.process(first, b"note")
    await node.process(records_delete.create(record_id(first), alice, node.now))

    again = await node.process(records_delete.create(record_id(first), alice, node.now))
    update = records_write.update(first, b"back", alice, node.now)
    written = await node.process(update, b"back")

    assert again.code == 404
    assert verdict(written) == (400, "RecordsWriteNotAllowedAfterDelete")


async def test_delete_of_an_unknown_record_is_not_found(node: Node, alice: Signer) -> None:
    reply = await node.process(records_delete.create("nothing", alice, node.now))

    assert reply.code == 404


async def test_delete_older_than_the_record_is_a_conflict(node: Node, alice: Signer) -> None:
    before = node.now
    first = node.note(alice)
    await node.process(first, b"note")

    reply = await node.process(records_delete.create(record_id(first), alice, before))

    assert reply.code == 409


async def test_protocol_rules_decide_on_deletes(node: Node, bob: Signer, carol: Signer) -> None:
    await node.configure({"note": {"$actions": RULES}}, note={})
    notes = [
        node.note(bob, name, protocolPath="note", recipient=carol.did) for name in (b"1", b"2")
    ]
    for note, data in zip(notes, (b"1", b"2"), strict=True):
        await node.process(note, data)

    async def delete(note: bytes, author: Signer, *, prune: bool = False) -> int:
        message = records_delete.create(record_id(note), author, node.now, prune=prune)
        return (await node.process(message)).code

    assert await delete(notes[0], bob, prune=True) == 401
    assert await delete(notes[0], bob) == 202
    assert await delete(notes[1], carol) == 202


async def test_delete_without_permission_is_refused(
    node: Node, alice: Signer, bob: Signer, carol: Signer
) -> None:
    await node.configure({"note": {"$actions": RULES}}, note={})
    note = node.note(bob, protocolPath="note")
    flat = node.note(alice)
    for message in (note, flat):
        await node.process(message, b"note")

    codes = [
        (await node.process(records_delete.create(record_id(record), carol, node.now))).code
        for record in (note, flat)
    ]

    assert codes == [401, 401]
    assert (await node.read(record_id(note), bob)).code == 200


async def test_prune_purges_descendants_only(node: Node, alice: Signer) -> None:
    await node.configure({"note": {"note": {"note": {}}}}, note={})
    top = node.note(alice, protocolPath="note")
    aside = node.note(alice, protocolPath="note")
    below = node.note(alice, protocolPath="note/note", parent_context=context_id(top))
    bottom = node.note(alice, protocolPath="note/note/note", parent_context=context_id(below))
    for message in (top, aside, below, bottom):
        assert (await node.process(message, b"note")).code == 202

    pruned = await node.process(records_delete.create(record_id(top), alice, node.now, prune=True))
    replies = [await node.read(record_id(record), alice) for record in (top, below, bottom, aside)]

    assert pruned.code == 202
    assert [reply.code for reply in replies] == [404, 404, 404, 200]
    assert "entry" in members(replies[0])
    assert "entry" not in members(replies[1])
