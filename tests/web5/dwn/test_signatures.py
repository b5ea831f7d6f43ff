"""Signatures of messages: forged, foreign and malformed ones are refused."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from formats import jose
from services.web5.did import Method
from services.web5.dwn import cid, jws, message, records_delete, records_read, values
from services.web5.proof import Signer
from tests.web5.dwn.nodes import members, verdict
from tests.web5.holder import signer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.web5.dwn.nodes import Node

SIGNERS = [
    signer(key, method)
    for key in (jose.Ed25519Key.generate(), jose.Secp256k1Key.generate())
    for method in (Method.KEY, Method.JWK)
]
OTHER_KEY = jose.Ed25519Key.generate()


@pytest.fixture(scope="module")
def shared_location(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database, because refused messages do not reach it."""
    return str(tmp_path_factory.mktemp("signatures") / "store.db")


@pytest.mark.parametrize(
    "signer", SIGNERS, ids=lambda signer: f"{signer.did[:7]} {signer.key.algorithm}"
)
async def test_signature_by_a_key_of_the_did_is_accepted(node: Node, signer: Signer) -> None:
    reply = await node.process(records_read.create({"recordId": "a"}, node.now, signer))

    assert reply.code == 404


def header(**changes: Any) -> Callable[[dict[str, Any], Signer], None]:
    """Returns the message signed again with another protected header."""

    def change(signature: dict[str, Any], author: Signer) -> None:
        changed = {"kid": author.kid, "alg": author.key.algorithm} | changes
        present = {name: value for name, value in changed.items() if value is not None}
        protected = jose.encode(values.dump(present))
        signed = author.key.sign(f"{protected}.{signature['payload']}".encode())
        entry = {"protected": protected, "signature": jose.encode(signed)}
        signature["signatures"] = [entry]

    return change


def payload(**changes: Any) -> Callable[[dict[str, Any], Signer], None]:
    """Returns the message with a signature over another payload."""

    def change(signature: dict[str, Any], author: Signer) -> None:
        before = json.loads(jose.decode(signature["payload"]))
        signature |= jws.sign(before | changes, author)

    return change


def twice(signature: dict[str, Any], author: Signer) -> None:
    signature["signatures"] *= 2


def unsigned(signature: dict[str, Any], author: Signer) -> None:
    signature["signatures"] = []


def by_another_key(signature: dict[str, Any], author: Signer) -> None:
    entry = signature["signatures"][0]
    signed = OTHER_KEY.sign(f"{entry['protected']}.{signature['payload']}".encode())
    entry["signature"] = jose.encode(signed)


def stray_bits(signature: dict[str, Any], author: Signer) -> None:
    entry = signature["signatures"][0]
    last = entry["signature"][-1]
    entry["signature"] = entry["signature"][:-1] + chr(ord(last) + 1)


def padded(signature: dict[str, Any], author: Signer) -> None:
    signature["payload"] += "="


def payload_of_text(signature: dict[str, Any], author: Signer) -> None:
    signature["payload"] = jose.encode(b'"descriptorCid"')


def payload_with_two_readings(signature: dict[str, Any], author: Signer) -> None:
    signature["payload"] = jose.encode(b'{"descriptorCid":"a","descriptorCid":"b"}')


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (by_another_key, (401, "GeneralJwsVerifierInvalidSignature")),
        (stray_bits, (401, "GeneralJwsVerifierInvalidSignature")),
        (header(alg="ES256K"), (401, "GeneralJwsVerifierInvalidSignature")),
        (header(alg="Ed25519"), (401, "GeneralJwsVerifierInvalidSignature")),
        (header(alg="none"), (401, "GeneralJwsVerifierInvalidSignature")),
        (header(alg="HS256"), (401, "GeneralJwsVerifierInvalidSignature")),
        (header(alg=None), (400, "JwsHeaderInvalid")),
        (header(kid=None), (400, "JwsHeaderInvalid")),
        (header(kid="#0"), (401, "SignerNotResolved")),
        (header(kid="did:key:z6Mk"), (400, "JwsHeaderInvalid")),
        (header(kid="did:web:127.0.0.1%3A8080#0"), (401, "SignerNotResolved")),
        (header(crit=["b64"], b64=False), (400, "JwsHeaderInvalid")),
        (header(jwk=OTHER_KEY.jwk), (400, "JwsHeaderInvalid")),
        (twice, (400, "AuthenticationMoreThanOneSignatureNotSupported")),
        (unsigned, (400, "SchemaValidatorFailure")),
        (padded, (400, "SchemaValidatorFailure")),
        (payload_of_text, (400, "JwsDecodePlainObjectPayloadInvalid")),
        (payload_with_two_readings, (400, "JwsDecodePlainObjectPayloadInvalid")),
        (payload(surprise=1), (400, "SchemaValidatorAdditionalPropertyNotAllowed")),
        (payload(descriptorCid="another"), (400, "AuthenticateDescriptorCidMismatch")),
        (payload(permissionGrantId="grant"), (501, "NotSupported")),
        (payload(delegatedGrantId="grant"), (501, "NotSupported")),
    ],
)
async def test_invalid_signature_is_refused(
    node: Node,
    carol: Signer,
    change: Callable[[dict[str, Any], Signer], None],
    expected: tuple[int, str],
) -> None:
    read = json.loads(records_read.create({"recordId": "a"}, node.now, carol))
    change(read["authorization"]["signature"], carol)

    reply = await node.process(values.dump(read))

    assert verdict(reply) == expected


@pytest.mark.parametrize("fragment", ["0", "1", "", "key#0"])
async def test_kid_must_be_the_full_id_of_a_key(node: Node, fragment: str) -> None:
    key = jose.Ed25519Key.generate()
    proper = signer(key)
    odd = Signer(proper.did, f"{proper.did}#{fragment}", key)

    reply = await node.process(records_read.create({"recordId": "a"}, node.now, odd))

    assert verdict(reply) == (401, "GeneralJwsVerifierGetPublicKeyNotFound")


async def test_signature_of_another_message_is_refused(node: Node, alice: Signer) -> None:
    first = json.loads(records_read.create({"recordId": "a"}, node.now, alice))
    second = json.loads(records_read.create({"recordId": "b"}, node.now, alice))
    second["authorization"] = first["authorization"]

    reply = await node.process(values.dump(second))

    assert verdict(reply) == (400, "AuthenticateDescriptorCidMismatch")


async def test_message_timestamp_in_the_future_is_refused(node: Node, alice: Signer) -> None:
    ahead = node.now + timedelta(minutes=6)

    reply = await node.process(records_read.create({"recordId": "a"}, ahead, alice))

    assert verdict(reply) == (400, "MessageTimestampInFuture")


@pytest.mark.parametrize(
    ("descriptor", "expected"),
    [
        ({}, (400, "SchemaValidatorFailure")),
        ({"interface": "Foo", "method": "Bar"}, (400, "SchemaValidatorSchemaNotFound")),
        ({"interface": "RecordsRe", "method": "ad"}, (400, "SchemaValidatorFailure")),
        ({"interface": "Records", "method": "Read"}, (400, "SchemaValidatorFailure")),
        ({"interface": "Records", "method": "Subscribe"}, (501, "NotSupported")),
        ({"interface": "Messages", "method": "Query"}, (501, "NotSupported")),
    ],
)
async def test_error_of_an_invalid_message_names_the_reason(
    node: Node, alice: Signer, descriptor: dict[str, Any], expected: tuple[int, str]
) -> None:
    reply = await node.process(message.create(descriptor, alice))

    assert verdict(reply) == expected


@pytest.mark.parametrize(
    "member", ["ownerSignature", "authorDelegatedGrant", "ownerDelegatedGrant"]
)
async def test_unsupported_parts_of_a_message_are_refused(
    node: Node, alice: Signer, member: str
) -> None:
    note = json.loads(node.note(alice))
    delegated = note | {"authorization": note["authorization"] | {member: {}}}

    replies = [
        await node.process(values.dump(changed), b"note")
        for changed in (delegated, note | {"encryption": {}}, note | {"attestation": {}})
    ]

    assert {verdict(reply) for reply in replies} == {(501, "NotSupported")}


async def test_message_is_returned_byte_for_byte(node: Node, alice: Signer) -> None:
    pretty = json.dumps(json.loads(node.note(alice)), indent=2).encode() + b"\n"
    await node.process(pretty, b"note")

    reply = await node.read(json.loads(pretty)["recordId"], alice)

    assert pretty.strip() in reply.json()
    assert cid.of_message(members(reply)["entry"]["recordsWrite"]) == cid.of_message(
        json.loads(pretty)
    )


async def test_unsigned_delete_is_refused(node: Node, alice: Signer) -> None:
    delete = json.loads(records_delete.create("a", alice, node.now))
    del delete["authorization"]

    reply = await node.process(values.dump(delete))

    assert verdict(reply) == (400, "SchemaValidatorFailure")
