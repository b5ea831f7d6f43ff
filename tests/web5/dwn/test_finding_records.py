"""RecordsRead and RecordsQuery: filters, pages and permissions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from formats import jose
from services.web5.dwn import protocols, records_query, records_read, records_write, schemas
from services.web5.store.dwn.node import Dwn
from tests.web5.dwn.nodes import NOTES, context_id, members, record_id, verdict
from tests.web5.holder import signer

if TYPE_CHECKING:
    from services.web5.proof import Signer
    from tests.web5.dwn.nodes import Node

DAY = "2026-01-31T00:00:00.000000Z"
NEXT_DAY = "2026-02-01T00:00:00.000000Z"


async def write(node: Node, author: Signer, name: str, **properties: Any) -> bytes:
    """Writes a record whose data is its name."""
    message = node.note(author, name.encode(), **properties)
    reply = await node.process(message, name.encode())
    assert reply.code == 202, reply
    return message


async def query(node: Node, reader: Signer | None, filter: Any, **properties: Any) -> Any:
    message = records_query.create(filter, node.now, reader, **properties)
    reply = await node.process(message)
    assert reply.code == 200, reply
    return members(reply)


async def names(node: Node, reader: Signer | None, filter: Any, **properties: Any) -> list[str]:
    """Returns the data of the records that the query finds."""
    found = await query(node, reader, filter, **properties)
    return [data(entry) for entry in found["entries"]]


def data(entry: Any) -> str:
    return jose.decode(entry["encodedData"]).decode()


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"tags": {"mood": "glad"}}, ["one"]),
        ({"tags": {"mood": {"startsWith": "gl"}}}, ["one", "two"]),
        ({"tags": {"mood": {"gte": "gloomy"}}}, ["two", "three"]),
        ({"tags": {"mood": {"lt": "Z"}}}, ["three"]),
        ({"tags": {"stars": 3}}, ["two"]),
        ({"tags": {"stars": {"gt": 1, "lte": 3}}}, ["two"]),
        ({"tags": {"stars": {"gt": 1.5}}}, ["two"]),
        ({"tags": {"stars": "3"}}, []),
        ({"tags": {"done": True}}, ["two"]),
        ({"tags": {"names": "b"}}, ["three"]),
        ({"tags": {"mood": "glad", "stars": 1}}, ["one"]),
        ({"tags": {"mood": "glad", "stars": 3}}, []),
        ({"dataSize": {"gt": 3}}, ["three"]),
        ({"dataSize": {"gte": 2.5, "lt": 3.5}}, ["one", "two"]),
        ({"dataFormat": "text/html"}, ["three"]),
        ({"schema": "http://notes.example/s"}, ["two"]),
        ({"dateCreated": {"from": DAY, "to": NEXT_DAY}}, ["one", "two", "three"]),
        ({"dateCreated": {"to": DAY}}, []),
        ({"dateUpdated": {"from": NEXT_DAY}}, []),
        ({"datePublished": {"from": DAY}}, ["three"]),
        ({"published": False}, ["one", "two"]),
        ({"attester": "did:key:z6MkAttester"}, []),
    ],
)
async def test_filter_finds_records_that_match_all_members(
    node: Node, alice: Signer, filter: Any, expected: list[str]
) -> None:
    await write(node, alice, "one", tags={"mood": "glad", "stars": 1})
    await write(
        node,
        alice,
        "two",
        tags={"mood": "gloomy", "stars": 3, "done": True},
        schema="http://notes.example/s",
    )
    tags = {"mood": ["so", "Tired"], "names": ["a", "b"]}
    published = {"published": True, "datePublished": DAY}
    await write(node, alice, "three", tags=tags, dataFormat="text/html", **published)

    assert await names(node, alice, filter) == expected


async def test_record_with_properties_of_maximum_length_is_found(node: Node, alice: Signer) -> None:
    protocol = "http://notes.example/" + "p" * (schemas.MAX_PROTOCOL_CHARS - 21)
    path = "n" * schemas.MAX_PATH_CHARS
    recipient = "did:web:" + "r" * (schemas.MAX_DID_CHARS - 8)
    name, text = "ñ" * schemas.MAX_TAG_NAME_CHARS, "₿" * 10_000
    definition = {
        "protocol": protocol,
        "published": False,
        "types": {path: {}},
        "structure": {path: {}},
    }
    await node.process(protocols.configure(definition, alice, node.now))
    place = {"protocol": protocol, "protocolPath": path, "recipient": recipient}
    await write(node, alice, "long", tags={name: text, "other": text[1:]}, **place)

    assert await names(node, alice, {"tags": {name: text}}) == ["long"]
    assert await names(node, alice, {"tags": {name: text[1:]}}) == []
    assert await names(node, alice, place) == ["long"]


@pytest.mark.parametrize(
    "properties",
    [
        {"protocol": "http://a.example/" + "p" * schemas.MAX_PROTOCOL_CHARS},
        {"protocolPath": "n" * (schemas.MAX_PATH_CHARS + 1)},
        {"recipient": "did:web:" + "r" * schemas.MAX_DID_CHARS},
        {"tags": {"n" * (schemas.MAX_TAG_NAME_CHARS + 1): 1}},
    ],
    ids=["protocol", "path", "recipient", "tag"],
)
async def test_property_above_maximum_length_is_refused(
    node: Node, alice: Signer, properties: dict[str, Any]
) -> None:
    message = node.note(alice, **({"protocolPath": "note"} | properties))

    reply = await node.process(message, b"note")

    assert verdict(reply) == (400, "SchemaValidatorFailure")


async def test_records_are_found_by_path_context_author_and_recipient(
    node: Node, alice: Signer, bob: Signer
) -> None:
    await node.configure(
        {"note": {"$actions": [{"who": "anyone", "can": ["create"]}], "reply": {}}},
        note={},
        reply={},
    )
    top = await write(node, bob, "top", protocolPath="note", recipient=alice.did)
    place = {"protocolPath": "note/reply", "parent_context": context_id(top)}
    await write(node, alice, "below", **place)
    await write(node, alice, "aside", protocolPath="note")

    found = {
        name: await names(node, alice, filter)
        for name, filter in {
            "protocol": {"protocol": NOTES},
            "path": {"protocol": NOTES, "protocolPath": "note"},
            "context": {"contextId": context_id(top)},
            "part of an id": {"contextId": context_id(top)[:-1]},
            "parent": {"parentId": record_id(top)},
            "author": {"author": bob.did},
            "authors": {"author": [bob.did, alice.did]},
            "recipient": {"recipient": alice.did},
            "record": {"recordId": record_id(top)},
        }.items()
    }

    assert found == {
        "protocol": ["top", "below", "aside"],
        "path": ["top", "aside"],
        "context": ["top", "below"],
        "part of an id": [],
        "parent": ["below"],
        "author": ["top"],
        "authors": ["top", "below", "aside"],
        "recipient": ["top"],
        "record": ["top"],
    }


@pytest.mark.parametrize("sort", ["createdAscending", "createdDescending"])
@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_pages_have_no_gap_and_no_overlap(
    node: Node, alice: Signer, sort: str, limit: int
) -> None:
    moment = node.now
    written = []
    for number in range(5):  # equal timestamps: only the CIDs order them
        name = str(number).encode()
        message = records_write.create(name, alice, moment, data_format="text/plain")
        await node.process(message, name)
        written.append(record_id(message))

    pages: list[list[str]] = []
    cursor = None
    while cursor is not None or not pages:
        pagination = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = await query(
            node, alice, {"dataFormat": "text/plain"}, dateSort=sort, pagination=pagination
        )
        pages.append([entry["recordId"] for entry in page["entries"]])
        cursor = page.get("cursor")

    found = [identity for page in pages for identity in page]
    assert sorted(found) == sorted(written)
    assert all(len(page) <= limit for page in pages)
    assert len(pages) == -(-5 // limit)


async def test_sorting_by_publication_date_finds_published_records_only(
    node: Node, alice: Signer
) -> None:
    await write(node, alice, "hidden")
    await write(node, alice, "later", published=True, datePublished=NEXT_DAY)
    await write(node, alice, "sooner", published=True, datePublished=DAY)
    everything = {"dataFormat": "text/plain"}

    ascending = await names(node, alice, everything, dateSort="publishedAscending")
    descending = await names(node, alice, everything, dateSort="publishedDescending")

    assert ascending == ["sooner", "later"]
    assert descending == ["later", "sooner"]


async def test_page_is_limited_to_the_maximum_reply_size(node: Node, alice: Signer) -> None:
    large = "x" * records_write.MAX_INLINE_BYTES
    for number in range(60):
        await write(node, alice, f"{number:02}" + large[2:])

    first = await query(node, alice, {"dataFormat": "text/plain"})
    rest = await query(
        node, alice, {"dataFormat": "text/plain"}, pagination={"cursor": first["cursor"]}
    )

    assert len(json.dumps(first)) < 2.5 * 2**20
    assert len(first["entries"]) + len(rest["entries"]) == 60
    assert "cursor" not in rest


async def test_query_reply_has_no_large_data(node: Node, alice: Signer) -> None:
    await write(node, alice, "x" * (records_write.MAX_INLINE_BYTES + 1))

    found = await query(node, alice, {"dataFormat": "text/plain"})

    assert "encodedData" not in found["entries"][0]


async def test_updated_record_is_found_once_with_its_initial_write(
    node: Node, alice: Signer
) -> None:
    first = await write(node, alice, "first", tags={"mood": "glad"})
    second = records_write.update(first, b"second", alice, node.now)
    await node.process(second, b"second")

    found = await query(node, alice, {"recordId": record_id(first)})
    by_old_tag = await names(node, alice, {"tags": {"mood": "glad"}})

    (entry,) = found["entries"]
    assert data(entry) == "second"
    assert entry["initialWrite"] == json.loads(first)
    assert "encodedData" not in entry["initialWrite"]
    assert by_old_tag == []


async def test_readers_find_their_own_and_published_records(
    node: Node, alice: Signer, bob: Signer, carol: Signer
) -> None:
    await node.configure({"note": {"$actions": [{"who": "anyone", "can": ["create"]}]}}, note={})
    await write(node, bob, "to carol", protocolPath="note", recipient=carol.did)
    await write(node, alice, "secret", protocolPath="note")
    await write(node, alice, "open", protocolPath="note", published=True, datePublished=DAY)

    found = {
        name: await names(node, reader, {"protocol": NOTES})
        for name, reader in {"alice": alice, "bob": bob, "carol": carol, "anonymous": None}.items()
    }

    assert found == {
        "alice": ["to carol", "secret", "open"],
        "bob": ["to carol", "open"],
        "carol": ["to carol", "open"],
        "anonymous": ["open"],
    }


async def test_nodes_of_two_tenants_are_separate(node: Node, alice: Signer) -> None:
    neighbour = signer()
    elsewhere = Dwn(node.database, neighbour, node.clock)
    await elsewhere.open()
    note = await write(node, alice, "note", published=True, datePublished=DAY)
    read = records_read.create({"recordId": record_id(note)}, node.now, alice)
    query = records_query.create({"dataFormat": "text/plain"}, node.now, alice)

    found = await elsewhere.process_message(neighbour.did, query)
    reply = await elsewhere.process_message(neighbour.did, read)

    assert members(found)["entries"] == []
    assert reply.code == 404


async def test_anonymous_query_for_unpublished_records_is_refused(node: Node) -> None:
    reply = await node.process(records_query.create({"published": False}, node.now))

    assert verdict(reply) == (401, "AuthenticateJwsMissing")


async def test_read_with_an_ambiguous_filter_is_refused(node: Node, alice: Signer) -> None:
    await write(node, alice, "one")
    await write(node, alice, "two")

    many = await node.process(records_read.create({"dataFormat": "text/plain"}, node.now, alice))
    none = await node.process(records_read.create({"recordId": "other"}, node.now, alice))

    assert verdict(many) == (400, "RecordsReadReturnedMultiple")
    assert (none.code, none.detail) == (404, "Not Found")


async def test_rule_permits_other_readers(
    node: Node, alice: Signer, bob: Signer, carol: Signer
) -> None:
    await node.configure(
        {
            "note": {
                "$actions": [{"who": "anyone", "can": ["create"]}],
                "reply": {"$actions": [{"who": "author", "of": "note", "can": ["read"]}]},
            }
        },
        note={},
        reply={},
    )
    note = await write(node, bob, "note", protocolPath="note")
    reply = await write(
        node, alice, "reply", protocolPath="note/reply", parent_context=context_id(note)
    )

    codes = [(await node.read(record_id(reply), reader)).code for reader in (bob, carol, None)]

    assert codes == [200, 401, 401]


@pytest.mark.parametrize(
    "filter",
    [
        {},
        {"surprise": 1},
        {"dateCreated": {}},
        {"dateCreated": {"from": "2026-02-30T00:00:00.000000Z"}},
        {"dataSize": {"gt": 1, "gte": 1}},
        {"tags": {"n": {"startsWith": "a", "gt": "a"}}},
        {"datePublished": {"from": DAY}, "published": False},
        {"protocol": "NOTES.example"},
        {"schema": "http://notes.example/s/"},
    ],
)
async def test_filter_with_invalid_urls_or_dates_is_refused(
    node: Node, alice: Signer, filter: Any
) -> None:
    read = await node.process(records_read.create(filter, node.now, alice))
    query = await node.process(records_query.create(filter, node.now, alice))

    assert read.code == query.code == 400
