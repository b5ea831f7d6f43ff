"""Protocols: invalid definitions are refused, and the rules of valid ones are enforced."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from services.web5.dwn import cid, jws, protocols, records_write
from tests.web5.dwn.nodes import NOTES, context_id, members, record_id, verdict

if TYPE_CHECKING:
    from services.web5.dwn.reply import Reply
    from services.web5.proof import Signer
    from tests.web5.dwn.nodes import Node

ANYONE = {"who": "anyone", "can": ["create", "update"]}
THREAD = {"$actions": [{"who": "anyone", "can": ["create"]}]}


def nested(depth: int) -> dict[str, Any]:
    return {"note": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("structure", "code"),
    [
        ({"memo": {}}, "ProtocolsConfigureInvalidRuleSetRecordType"),
        (
            {"note": {"$actions": [{"who": "anyone", "of": "note", "can": ["read"]}]}},
            "OfNotAllowed",
        ),
        ({"note": {"$actions": [{"who": "author", "can": ["read"]}]}}, "MissingOf"),
        ({"note": {"$actions": [{"who": "recipient", "can": ["read"]}]}}, "InvalidRecipientOf"),
        ({"note": {"$actions": [{"who": "anyone", "can": ["update"]}]}}, "UpdateWithoutCreate"),
        ({"note": {"$actions": [{"who": "anyone", "can": ["delete"]}]}}, "DeleteWithoutCreate"),
        ({"note": {"$actions": [ANYONE, ANYONE]}}, "ProtocolsConfigureDuplicateActorInRuleSet"),
        ({"note": {"$size": {"min": 2, "max": 1}}}, "ProtocolsConfigureInvalidSize"),
        ({"note": {"$tags": {"n": {"minimum": "low"}}}}, "ProtocolsConfigureInvalidTagSchema"),
        ({"note": {"$tags": {"n": {"pattern": "(a+)+"}}}}, "AdditionalPropertyNotAllowed"),
        ({"note": {"$actions": [{"who": "friends", "can": ["read"]}]}}, "SchemaValidatorFailure"),
        ({"note": {"$actions": [{"who": "anyone", "can": ["query"]}]}}, "SchemaValidatorFailure"),
        ({"note": {"$surprise": {}}}, "AdditionalPropertyNotAllowed"),
        (nested(11), "ProtocolsConfigureRecordNestingDepthExceeded"),
    ],
)
async def test_invalid_protocol_definition_is_refused(
    node: Node, structure: dict[str, Any], code: str
) -> None:
    reply = await node.configure(structure, note={})

    assert reply.code == 400
    assert code in verdict(reply)[1]


@pytest.mark.parametrize(
    "structure",
    [
        {"note": {"$role": True}},
        {"note": {"$actions": [{"role": "note", "can": ["read", "query", "subscribe"]}]}},
        {"note": {"note": {"$encryption": {"rootKeyId": "#0", "publicKeyJwk": {}}}}},
    ],
    ids=["role", "rule for a role", "encryption"],
)
async def test_protocol_with_unsupported_features_is_refused(
    node: Node, structure: dict[str, Any]
) -> None:
    reply = await node.configure(structure, note={})

    assert verdict(reply) == (501, "NotSupported")


async def test_definition_with_a_url_that_is_not_normalized_is_refused(
    node: Node, alice: Signer
) -> None:
    definition = {"protocol": NOTES + "/", "published": True, "types": {}, "structure": {}}

    protocol = await node.process(protocols.configure(definition, alice, node.now))
    schema = await node.configure({}, note={"schema": "http://notes.example/note?v=1"})

    assert verdict(protocol) == (400, "UrlProtocolNotNormalized")
    assert verdict(schema) == (400, "UrlSchemaNotNormalized")


async def test_only_the_tenant_may_configure_protocols(node: Node, bob: Signer) -> None:
    definition = {"protocol": NOTES, "published": True, "types": {}, "structure": {}}

    reply = await node.process(protocols.configure(definition, bob, node.now))

    assert verdict(reply) == (401, "ProtocolsConfigureAuthorizationFailed")


async def test_newest_definition_applies_in_any_order_of_arrival(
    node: Node, alice: Signer, bob: Signer
) -> None:
    definition = {"protocol": NOTES, "published": True, "types": {"note": {}}, "structure": {}}
    older = protocols.configure(definition, alice, node.now)
    newer = protocols.configure(definition | {"structure": {"note": THREAD}}, alice, node.now)

    first = await node.process(newer)
    second = await node.process(older)
    written = await node.process(node.note(bob, protocolPath="note"), b"note")
    found = members(await node.process(protocols.query(NOTES, node.now, alice)))["entries"]

    assert [first.code, second.code, written.code] == [202, 409, 202]
    assert found == [json.loads(newer)]


async def test_other_readers_find_published_protocols_only(
    node: Node, alice: Signer, bob: Signer
) -> None:
    hidden = {"protocol": NOTES, "published": False, "types": {}, "structure": {}}
    await node.process(protocols.configure(hidden, alice, node.now))

    async def ask(who: Signer | None) -> Reply:
        return await node.process(protocols.query(None, node.now, who))

    seen = [
        {
            entry["descriptor"]["definition"]["protocol"]
            for entry in members(await node.process(protocols.query(None, node.now, who)))[
                "entries"
            ]
        }
        for who in (alice, bob, None)
    ]

    assert NOTES in seen[0]
    assert NOTES not in seen[1] | seen[2]


@pytest.mark.parametrize(
    ("properties", "data", "code"),
    [
        ({"protocolPath": "memo"}, b"1234", "ProtocolAuthorizationInvalidType"),
        ({"protocolPath": "reply"}, b"1234", "ProtocolAuthorizationMissingRuleSet"),
        ({"dataFormat": "text/html"}, b"1234", "ProtocolAuthorizationIncorrectDataFormat"),
        ({"schema": "http://notes.example/memo"}, b"1234", "ProtocolAuthorizationInvalidSchema"),
        ({}, b"1", "ProtocolAuthorizationMinSizeInvalid"),
        ({}, b"12345", "ProtocolAuthorizationMaxSizeInvalid"),
        ({"tags": {"other": 1}}, b"1234", "ProtocolAuthorizationTagsInvalidSchema"),
        ({"tags": {"n": "1"}}, b"1234", "ProtocolAuthorizationTagsInvalidSchema"),
        ({"tags": {"n": 11}}, b"1234", "ProtocolAuthorizationTagsInvalidSchema"),
        ({"tags": {"n": 1, "other": 1}}, b"1234", "ProtocolAuthorizationTagsInvalidSchema"),
    ],
)
async def test_write_that_does_not_fit_its_protocol_is_refused(
    node: Node, alice: Signer, properties: dict[str, Any], data: bytes, code: str
) -> None:
    schema = "http://notes.example/note"
    await node.configure(
        {
            "note": {
                "$size": {"min": 2, "max": 4},
                "$tags": {"$requiredTags": ["n"], "n": {"type": "number", "maximum": 10}},
                "reply": {},
            }
        },
        note={"schema": schema, "dataFormats": ["text/plain"]},
        reply={},
    )
    fitting = {"protocolPath": "note", "schema": schema, "tags": {"n": 1}}

    fit = await node.process(node.note(alice, b"1234", **fitting), b"1234")
    reply = await node.process(node.note(alice, data, **(fitting | properties)), data)

    assert fit.code == 202
    assert verdict(reply) == (400, code)


async def test_child_record_needs_an_existing_parent_of_its_path(node: Node, alice: Signer) -> None:
    await node.configure({"note": {"reply": {"note": {}}}}, note={}, reply={})
    note = node.note(alice, protocolPath="note")
    await node.process(note, b"note")
    bare = node.note(alice, b"bare", protocolPath="note")
    await node.process(bare)

    def reply_to(parent: bytes, path: str = "note/reply") -> bytes:
        return node.note(alice, parent_context=context_id(parent), protocolPath=path)

    child = await node.process(reply_to(note), b"note")
    refusals = [
        await node.process(message, b"note")
        for message in (
            reply_to(bare),
            reply_to(note, "note/reply/note"),
            node.note(alice, protocolPath="note/reply"),
            node.note(
                alice, parent_context=f"elsewhere/{record_id(note)}", protocolPath="note/reply"
            ),
        )
    ]

    assert child.code == 202
    assert [verdict(refusal)[1].removeprefix("ProtocolAuthorization") for refusal in refusals] == [
        "IncorrectProtocolPath",
        "IncorrectProtocolPath",
        "ParentlessIncorrectProtocolPath",
        "IncorrectContextId",
    ]


async def test_rules_permit_actions_by_actor(
    node: Node, alice: Signer, bob: Signer, carol: Signer
) -> None:
    await node.configure(
        {
            "thread": {
                "$actions": [
                    {"who": "anyone", "can": ["create", "update"]},
                    {"who": "recipient", "can": ["co-update"]},
                ],
                "reply": {"$actions": [{"who": "author", "of": "thread", "can": ["create"]}]},
                "answer": {
                    "$actions": [{"who": "recipient", "of": "thread", "can": ["create", "read"]}]
                },
            }
        },
        thread={},
        reply={},
        answer={},
    )
    thread = node.note(bob, b"thread", protocolPath="thread", recipient=carol.did)
    await node.process(thread, b"thread")

    async def child(author: Signer, name: str) -> int:
        message = node.note(
            author, protocolPath=f"thread/{name}", parent_context=context_id(thread)
        )
        return (await node.process(message, b"note")).code

    async def update(author: Signer) -> int:
        message = records_write.update(thread, author.did.encode(), author, node.now)
        return (await node.process(message, author.did.encode())).code

    by_bob = [await update(bob), await child(bob, "reply"), await child(bob, "answer")]
    by_carol = [await update(carol), await child(carol, "reply"), await child(carol, "answer")]
    by_alice = [await update(alice), await child(alice, "reply"), await child(alice, "answer")]

    assert by_bob == [202, 202, 401]
    assert by_carol == [202, 401, 202]
    assert by_alice == [202, 202, 202]


async def test_recipient_of_an_update_gains_no_permission(
    node: Node, bob: Signer, carol: Signer
) -> None:
    rules = [
        {"who": "anyone", "can": ["create"]},
        {"who": "recipient", "can": ["co-update"]},
    ]
    await node.configure({"note": {"$actions": rules}}, note={})
    note = node.note(bob, protocolPath="note", recipient=bob.did)
    await node.process(note, b"note")

    reply = await node.process(
        records_write.update(note, b"mine", carol, node.now, recipient=carol.did), b"mine"
    )

    assert verdict(reply) == (401, "ProtocolAuthorizationActionNotAllowed")


async def test_invoked_role_is_refused(node: Node, bob: Signer) -> None:
    await node.configure({"note": THREAD}, note={})
    message = json.loads(node.note(bob, protocolPath="note"))
    payload = {
        "recordId": message["recordId"],
        "descriptorCid": cid.of_value(message["descriptor"]),
        "contextId": message["contextId"],
        "protocolRole": "note",
    }
    message["authorization"] = {"signature": jws.sign(payload, bob)}

    reply = await node.process(json.dumps(message).encode(), b"note")

    assert verdict(reply) == (401, "ProtocolAuthorizationNotARole")
