"""Verification of a payer over gRPC: one presentation proves one payment once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from anya.mesh.v1.outbox_pb2 import ReadOutboxRequest
from anya.mesh.v1.outbox_pb2_grpc import OutboxServiceStub
from anya.web5.v1 import identity_pb2 as pb
from formats import jose
from formats.money import MAX_SAT
from mesh.security.attestation import payment_digest
from mesh.testing import detail, reason
from services.web5.did import Method
from tests.web5.conftest import start
from tests.web5.holder import (
    RECIPIENT_ADDRESS,
    SENDER_ADDRESS,
    Payer,
    intent,
    presentation_claims,
    signer,
    verification,
)

if TYPE_CHECKING:
    from mesh.security.attestation import Verifier
    from mesh.testing import Authority
    from services.web5.config import Web5Config
    from tests.web5.conftest import Running

MAINNET = "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"


async def test_holder_with_a_trusted_credential_is_verified(
    running: Running, payer: Payer, verifier: Verifier
) -> None:
    paid = intent(payer.holder)
    begun = await running.begin(paid)

    reply = await running.verify(verification(paid, payer.present(begun)))

    assert (reply.verified, reply.confidence) == (True, 0.95)
    assert reply.assurance == pb.ASSURANCE_SUBSTANTIAL
    assert list(reply.evidence) == ["BiometricCredential"]
    assert reply.policy_version.startswith("1-")
    attested = verifier.require(reply.attestations, ["identity"], payment_digest(paid))["identity"]
    assert attested.values == {
        "did": payer.holder.did,
        "confidence": 0.95,
        "assurance": "substantial",
        "method": "biometric",
    }
    assert not reply.address_linked
    assert len(reply.attestations) == 1


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("kind", [jose.Ed25519Key, jose.Secp256k1Key])
async def test_both_key_types_and_both_did_methods_are_verified(
    running: Running,
    payer: Payer,
    kind: type[jose.Ed25519Key | jose.Secp256k1Key],
    method: Method,
) -> None:
    payer = Payer(holder=signer(kind.generate(), method), issuer=payer.issuer)
    paid = intent(payer.holder)
    begun = await running.begin(paid)

    reply = await running.verify(verification(paid, payer.present(begun)))

    assert reply.verified, reply.failures


async def test_challenge_has_the_payments_digest_and_the_services_did(
    running: Running, payer: Payer
) -> None:
    paid = intent(payer.holder)

    begun = await running.begin(paid)

    assert begun.digest == payment_digest(paid)
    assert begun.audience == running.did
    assert len(jose.decode(begun.nonce)) >= 16
    assert 290 < begun.expire_time.seconds - time.time() <= 300


async def test_replayed_presentation_is_refused(running: Running, payer: Payer) -> None:
    paid = intent(payer.holder)
    presented = payer.present(await running.begin(paid))
    await running.verify(verification(paid, presented))

    reply = await running.verify(verification(paid, presented))

    assert not reply.verified
    assert list(reply.failures) == [pb.VERIFICATION_FAILURE_NONCE_SPENT]
    assert reply.confidence == 0
    assert reply.assurance == pb.ASSURANCE_NONE
    assert not reply.attestations


async def test_retried_verification_returns_the_first_reply(running: Running, payer: Payer) -> None:
    paid = intent(payer.holder)
    request = verification(paid, payer.present(await running.begin(paid)))

    first = await running.verify(request)
    second = await running.verify(request)

    assert first.verified
    assert second == first


async def test_negative_verdict_is_also_kept_for_retries(running: Running, payer: Payer) -> None:
    paid = intent(payer.holder)
    request = verification(paid, "")

    first = await running.verify(request)
    second = await running.verify(request)

    assert list(first.failures) == [pb.VERIFICATION_FAILURE_PRESENTATION_MISSING]
    assert second == first


async def test_request_id_with_another_verification_is_refused(
    running: Running, payer: Payer
) -> None:
    paid = intent(payer.holder)
    request = verification(paid, "")
    await running.verify(request)
    request.context.presentation = payer.present(await running.begin(paid))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.verify(request)

    assert refused.value.code() == grpc.StatusCode.ALREADY_EXISTS
    assert reason(refused.value) == "REQUEST_ID_REUSED"


async def test_concurrent_requests_spend_a_nonce_once(running: Running, payer: Payer) -> None:
    paid = intent(payer.holder)
    presented = payer.present(await running.begin(paid))

    replies = await asyncio.gather(
        *(running.verify(verification(paid, presented)) for _ in range(8))
    )

    assert sum(reply.verified for reply in replies) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"amount_sat": 50_001},
        {"recipient_address": "bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry"},
        {"sender_address": "bcrt1qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3qzf4jry"},
        {"payment_id": "0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_presentation_of_another_payment_is_refused(
    running: Running, payer: Payer, change: dict[str, Any]
) -> None:
    paid = intent(payer.holder)
    begun = await running.begin(paid)
    claims = presentation_claims(payer.holder, begun, payer.credential())
    del claims["payment_digest"]  # bound by the nonce only
    changed = PaymentIntent.FromString(paid.SerializeToString())
    for field, value in change.items():
        setattr(changed, field, value)

    reply = await running.verify(verification(changed, payer.holder.sign(claims)))

    assert not reply.verified
    assert list(reply.failures) == [pb.VERIFICATION_FAILURE_WRONG_PAYMENT]


async def test_nonce_of_another_did_is_refused(running: Running, payer: Payer) -> None:
    mallory = Payer(holder=signer(), issuer=payer.issuer)
    paid = intent(payer.holder)
    begun = await running.begin(paid)

    reply = await running.verify(verification(paid, mallory.present(begun)))

    assert not reply.verified
    assert list(reply.failures) == [pb.VERIFICATION_FAILURE_WRONG_HOLDER]


async def test_presentation_of_another_holder_is_refused(running: Running, payer: Payer) -> None:
    mallory = Payer(holder=signer(), issuer=payer.issuer)
    paid = intent(payer.holder)
    presented = mallory.present(await running.begin(intent(mallory.holder)))

    reply = await running.verify(verification(paid, presented, did=mallory.holder.did))

    assert not reply.verified
    assert list(reply.failures) == [
        pb.VERIFICATION_FAILURE_WRONG_HOLDER,
        pb.VERIFICATION_FAILURE_WRONG_PAYMENT,
    ]


def altered(token: str) -> str:
    head, payload, signature = token.split(".")
    return f"{head}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


async def test_altered_presentation_is_refused_and_spends_its_nonce(
    running: Running, payer: Payer
) -> None:
    paid = intent(payer.holder)
    presented = payer.present(await running.begin(paid))

    forged = await running.verify(verification(paid, altered(presented)))
    genuine = await running.verify(verification(paid, presented))

    assert list(forged.failures) == [pb.VERIFICATION_FAILURE_SIGNATURE_INVALID]
    assert list(genuine.failures) == [pb.VERIFICATION_FAILURE_NONCE_SPENT]


async def test_verification_method_missing_in_the_policy_is_an_error(
    running: Running, payer: Payer
) -> None:
    paid = intent(payer.holder)
    request = verification(paid, "", verification_method="retina")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.verify(request)

    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refused.value) == "UNSUPPORTED_METHOD"
    assert "biometric" in str(refused.value.details())


async def test_without_a_policy_every_method_is_an_error(
    config: Web5Config, authority: Authority, payer: Payer
) -> None:
    config.identity_policy.unlink()
    paid = intent(payer.holder)

    async with start(config, authority) as running:
        presented = payer.present(await running.begin(paid))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.verify(verification(paid, presented))

    assert reason(refused.value) == "UNSUPPORTED_METHOD"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sender_did": "alice"}, "DID_INVALID"),
        ({"sender_did": ""}, "DID_INVALID"),
        ({"sender_did": "did:key:zNonsense"}, "DID_INVALID"),
        ({"payment_id": ""}, "REQUEST_ID_INVALID"),
        ({"payment_id": "0192f0c1-7d5e-4cc3-98c4-dc0c0c07398f"}, "REQUEST_ID_INVALID"),
        ({"sender_address": ""}, "ADDRESS_INVALID"),
        ({"sender_address": SENDER_ADDRESS[:-1] + "q"}, "ADDRESS_INVALID"),
        ({"recipient_address": "\0"}, "ADDRESS_INVALID"),
        ({"recipient_address": RECIPIENT_ADDRESS.title()}, "ADDRESS_INVALID"),
        ({"recipient_address": MAINNET}, "ADDRESS_OF_OTHER_NETWORK"),
        ({"sender_address": MAINNET}, "ADDRESS_OF_OTHER_NETWORK"),
        ({"network": "moon"}, "INTENT_INVALID"),
        ({"network": "main"}, "INTENT_INVALID"),
        ({"amount_sat": 0}, "AMOUNT_INVALID"),
        ({"amount_sat": -1}, "AMOUNT_INVALID"),
        ({"amount_sat": 293}, "AMOUNT_INVALID"),
        ({"amount_sat": MAX_SAT + 1}, "AMOUNT_INVALID"),
    ],
    ids=str,
)
async def test_intent_that_cannot_be_paid_is_refused_by_field_without_a_challenge(
    running: Running, config: Web5Config, payer: Payer, changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.begin(intent(payer.holder, **changes))

    (field,) = changes
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason(refused.value) == word
    assert detail(refused.value, BadRequest).field_violations[0].field == f"intent.{field}"
    with closing(sqlite3.connect(f"file:{config.database}?mode=ro", uri=True)) as store:
        assert store.execute("SELECT count(*) FROM verification_challenge").fetchone() == (0,)


async def test_at_most_ten_verifications_of_a_did_are_open(running: Running, payer: Payer) -> None:
    for _ in range(10):
        begun = await running.begin(paid := intent(payer.holder))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.begin(intent(payer.holder))
    await running.begin(intent(signer()))
    await running.verify(verification(paid, payer.present(begun)))
    await running.begin(intent(payer.holder))

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason(refused.value) == "TOO_MANY_CHALLENGES"


async def test_verdict_is_published_once(running: Running, payer: Payer) -> None:
    paid = intent(payer.holder)
    request = verification(paid, payer.present(await running.begin(paid)))
    await running.verify(request)
    await running.verify(request)

    outbox = OutboxServiceStub(running.orchestrator)
    reply = await outbox.ReadOutbox(ReadOutboxRequest(), timeout=5)

    assert [entry.event.type for entry in reply.entries] == ["web5.identity.verified"]
    assert reply.entries[0].event.attributes["subject"].ce_string == payer.holder.did


async def test_service_did_and_spent_nonces_survive_a_restart(
    config: Web5Config, authority: Authority, payer: Payer
) -> None:
    paid = intent(payer.holder)
    async with start(config, authority) as running:
        first_did = running.did
        presented = payer.present(await running.begin(paid))
        await running.verify(verification(paid, presented))

    async with start(config, authority) as running:
        reply = await running.verify(verification(paid, presented))

    assert running.did == first_did
    assert list(reply.failures) == [pb.VERIFICATION_FAILURE_NONCE_SPENT]
