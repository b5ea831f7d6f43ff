"""Address links over gRPC: two proofs over one challenge."""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from anya.web5.v1 import identity_pb2 as pb
from mesh.security import address_link
from mesh.security.attestation import Attestor, payment_digest
from mesh.testing import reason
from services.web5 import credential
from tests.web5.address_links import begin, complete, completion, link
from tests.web5.holder import (
    RECIPIENT_ADDRESS,
    SENDER_ADDRESS,
    Payer,
    did_proof,
    intent,
    ownership,
    signer,
    verification,
)

if TYPE_CHECKING:
    from mesh.security.attestation import Verifier
    from mesh.testing import Authority
    from tests.web5.conftest import Running


async def refusal(running: Running, request: pb.CompleteAddressLinkRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await complete(running, request)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    return reason(refused.value)


async def test_message_to_sign_contains_all_parameters_of_the_link(
    running: Running, payer: Payer
) -> None:
    begun = await begin(running, payer.holder)

    text = address_link.parse(begun.message)
    assert (text.audience, text.did) == (running.did, payer.holder.did)
    assert (text.address, text.network) == (SENDER_ADDRESS, "regtest")
    assert (text.challenge_id, text.nonce) == (begun.challenge_id, begun.nonce)
    assert int(text.expires_at.timestamp()) == begun.expire_time.seconds
    assert 590 < begun.expire_time.seconds - time.time() <= 600


async def test_two_valid_proofs_create_a_link_and_a_credential(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    reply = await link(running, bitcoin, payer.holder)

    issued = credential.verify(reply.credential)
    assert (issued.issuer, issued.subject) == (running.did, payer.holder.did)
    assert issued.types == ("BitcoinAddressLinkCredential",)
    assert issued.claims["bitcoinAddress"] == {
        "caip10": f"bip122:0f9188f13cb7b2c71f2a335e3a4fc328:{SENDER_ADDRESS}",
        "address": SENDER_ADDRESS,
        "network": "regtest",
        "linkedHeight": 210,
    }
    assert issued.expires_at == reply.expire_time.seconds
    assert reply.expire_time.seconds - issued.issued_at == 180 * 86_400
    assert reply.linked_height == 210


async def test_linked_address_is_attested_with_the_identity(
    running: Running, payer: Payer, bitcoin: Attestor, verifier: Verifier
) -> None:
    await link(running, bitcoin, payer.holder)
    paid = intent(payer.holder)
    presented = payer.present(await running.begin(paid))

    reply = await running.verify(verification(paid, presented))

    assert reply.address_linked
    attested = verifier.require(
        reply.attestations, ["identity", "address_link"], payment_digest(paid)
    )
    assert attested["address_link"].values == {
        "did": payer.holder.did,
        "address": SENDER_ADDRESS,
    }


async def test_link_is_valid_for_one_address(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    await link(running, bitcoin, payer.holder)
    paid = intent(payer.holder, sender_address=RECIPIENT_ADDRESS)
    presented = payer.present(await running.begin(paid))

    reply = await running.verify(verification(paid, presented))

    assert reply.verified
    assert not reply.address_linked
    assert [attestation.kind for attestation in reply.attestations] == ["identity"]


async def test_reply_to_an_unverified_payer_does_not_reveal_a_link(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    await link(running, bitcoin, payer.holder)

    reply = await running.verify(verification(intent(payer.holder), ""))

    assert not reply.address_linked
    assert not reply.attestations


async def test_challenge_creates_one_link_only(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    begun = await begin(running, payer.holder)
    proof = did_proof(payer.holder, begun, address=SENDER_ADDRESS)
    request = completion(begun, proof, ownership(bitcoin, begun.message))
    first = await complete(running, request)

    retried = await complete(running, request)
    request.request_id = "another"
    replayed = await refusal(running, request)

    assert retried == first
    assert replayed == "CHALLENGE_SPENT"


PROOFS: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "A" * 32},
    "another address": {"address": RECIPIENT_ADDRESS},
    "another DID": {"did": "did:key:z6Mkother"},
    "another challenge": {"challenge_id": str(uuid.UUID(int=0))},
    "something more": {"aud": "anyone"},
    "consent without a request": {"public": True},
}


@pytest.mark.parametrize("changes", PROOFS.values(), ids=PROOFS)
async def test_did_proof_must_contain_exactly_the_challenge(
    running: Running, payer: Payer, bitcoin: Attestor, changes: dict[str, Any]
) -> None:
    begun = await begin(running, payer.holder)
    proof = did_proof(payer.holder, begun, **({"address": SENDER_ADDRESS} | changes))

    refused = await refusal(running, completion(begun, proof, ownership(bitcoin, begun.message)))

    assert refused == "PROOF_INVALID"


async def test_address_cannot_be_linked_to_a_foreign_did(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    begun = await begin(running, payer.holder)
    proof = did_proof(signer(), begun, address=SENDER_ADDRESS, did=payer.holder.did)

    refused = await refusal(running, completion(begun, proof, ownership(bitcoin, begun.message)))

    assert refused == "PROOF_INVALID"


async def test_public_link_needs_the_holders_signed_consent(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    begun = await begin(running, payer.holder, public=True)
    proof = did_proof(payer.holder, begun, address=SENDER_ADDRESS)

    refused = await refusal(running, completion(begun, proof, ownership(bitcoin, begun.message)))

    assert refused == "PROOF_INVALID"


async def test_link_needs_an_ownership_attestation_of_bitcoin(
    running: Running, payer: Payer, bitcoin: Attestor, authority: Authority
) -> None:
    begun = await begin(running, payer.holder)
    proof = did_proof(payer.holder, begun, address=SENDER_ADDRESS)
    forger = Attestor(authority.issue_service("orchestrator"))
    digest = hashlib.sha256(begun.message.encode()).digest()
    values = {"address": SENDER_ADDRESS, "height": 1}

    refused = [
        await refusal(running, completion(begun, proof, *attestations))
        for attestations in (
            [],
            [ownership(forger, begun.message)],
            [ownership(bitcoin, begun.message + " ")],
            [bitcoin.attest("ownership", digest, values={**values, "degraded": True})],
        )
    ]

    assert refused == ["PROOF_MISSING", "PROOF_INVALID", "PROOF_INVALID", "PROOF_INVALID"]


@pytest.mark.parametrize(
    "values",
    [
        {"address": RECIPIENT_ADDRESS},
        {"signature_sha256": "00" * 32},
        {"height": None},
        {"height": -1},
        {"height": True},
    ],
)
async def test_ownership_attestation_of_another_address_or_signature_is_refused(
    running: Running, payer: Payer, bitcoin: Attestor, values: dict[str, Any]
) -> None:
    begun = await begin(running, payer.holder)
    proof = did_proof(payer.holder, begun, address=SENDER_ADDRESS)
    owned = ownership(bitcoin, begun.message, **values)

    assert await refusal(running, completion(begun, proof, owned)) == "PROOF_INVALID"


async def test_challenge_is_spent_after_five_invalid_proofs(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    begun = await begin(running, payer.holder)
    owned = ownership(bitcoin, begun.message)
    wrong = did_proof(signer(), begun, address=SENDER_ADDRESS)
    right = did_proof(payer.holder, begun, address=SENDER_ADDRESS)

    refused = [await refusal(running, completion(begun, wrong, owned)) for _ in range(5)]
    late = await refusal(running, completion(begun, right, owned))

    assert refused == ["PROOF_INVALID"] * 5
    assert late == "CHALLENGE_SPENT"


async def test_unknown_challenge_is_not_found(running: Running) -> None:
    request = pb.CompleteAddressLinkRequest(request_id="1", challenge_id=str(uuid.uuid4()))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await complete(running, request)

    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("address", "network"),
    [
        (SENDER_ADDRESS, "main"),
        (SENDER_ADDRESS, "moon"),
        (SENDER_ADDRESS[:-3] + "ABC", "regtest"),
        (SENDER_ADDRESS + "\n", "regtest"),
        ("2N8hwP1WmJrFF5QWABn38y63uYLhnJYJYTF", "regtest"),
        ("", "regtest"),
    ],
)
async def test_address_of_another_type_or_network_is_refused(
    running: Running, payer: Payer, address: str, network: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await begin(running, payer.holder, address, network=network)

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_at_most_ten_links_of_a_did_are_open(running: Running, payer: Payer) -> None:
    for _ in range(10):
        await begin(running, payer.holder)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await begin(running, payer.holder)

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(refused.value) == "TOO_MANY_CHALLENGES"


async def test_renewed_link_keeps_its_id_and_height(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    first = await link(running, bitcoin, payer.holder, height=210)

    renewed = await link(running, bitcoin, payer.holder, height=300)

    assert (renewed.link_id, renewed.linked_height) == (first.link_id, 210)
    assert renewed.credential != first.credential


async def test_event_of_an_address_of_two_dids_says_shared(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    await link(running, bitcoin, payer.holder)
    await link(running, bitcoin, signer())

    outbox = OutboxServiceStub(running.orchestrator)
    reply = await outbox.ReadOutbox(ReadOutboxRequest(), timeout=5)

    assert [entry.event.type for entry in reply.entries] == ["web5.address.linked"] * 2
    assert b'"shared": false' in reply.entries[0].event.binary_data
    assert b'"shared": true' in reply.entries[1].event.binary_data
