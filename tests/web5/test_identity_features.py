"""Identity features of a payment's sender and recipient, over gRPC."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.mesh.v1.attestation_pb2 import RunContext
from anya.web5.v1 import analysis_pb2
from mesh.errors import Reason
from mesh.security.attestation import payment_digest
from mesh.testing import reason
from tests.web5.address_links import link
from tests.web5.holder import RECIPIENT_ADDRESS, SENDER_ADDRESS, Payer, intent, signer

if TYPE_CHECKING:
    from mesh.security.attestation import Attestor, Verifier
    from tests.web5.conftest import Running


async def test_features_are_the_payers_links_and_the_recipients_public_link(
    running: Running, payer: Payer, bitcoin: Attestor, verifier: Verifier
) -> None:
    other = "bcrt1q0qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
    await link(running, bitcoin, payer.holder, SENDER_ADDRESS, height=210)
    await link(running, bitcoin, payer.holder, other, height=220)
    await link(running, bitcoin, signer(), RECIPIENT_ADDRESS, height=5)
    await link(running, bitcoin, signer(), RECIPIENT_ADDRESS, height=9, public=True)
    paid = intent(payer.holder)
    request = analysis_pb2.ExtractIdentityFeaturesRequest(
        did=paid.sender_did,
        recipient_address=paid.recipient_address,
        context=RunContext(intent=paid),
    )

    reply = await running.analysis.ExtractIdentityFeatures(request, timeout=5)

    sender = [(found.address, found.linked_height) for found in reply.links.sender]
    assert sender == [(other, 220), (SENDER_ADDRESS, 210)]
    assert reply.links.recipient.linked_height == 9
    attested = verifier.require(reply.attestations, ["identity_features"], payment_digest(paid))
    sha256 = hashlib.sha256(reply.links.SerializeToString(deterministic=True)).hexdigest()
    assert attested["identity_features"].values == {"sha256": sha256}


async def test_private_link_of_the_recipient_is_not_part_of_the_features(
    running: Running, payer: Payer, bitcoin: Attestor
) -> None:
    await link(running, bitcoin, signer(), RECIPIENT_ADDRESS)
    paid = intent(payer.holder)
    request = analysis_pb2.ExtractIdentityFeaturesRequest(
        did=paid.sender_did,
        recipient_address=paid.recipient_address,
        context=RunContext(intent=paid),
    )

    reply = await running.analysis.ExtractIdentityFeatures(request, timeout=5)

    assert not reply.links.HasField("recipient")


@pytest.mark.parametrize("field", ["did", "recipient_address"])
async def test_features_of_another_payment_are_refused(
    running: Running, payer: Payer, field: str
) -> None:
    paid = intent(payer.holder)
    fields = {"did": paid.sender_did, "recipient_address": paid.recipient_address}
    fields[field] = {"did": signer().did, "recipient_address": SENDER_ADDRESS}[field]
    request = analysis_pb2.ExtractIdentityFeaturesRequest(**fields, context=RunContext(intent=paid))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.analysis.ExtractIdentityFeatures(request, timeout=5)

    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refused.value) == Reason.PROOF_INVALID


async def test_features_need_a_payment_intent(running: Running, payer: Payer) -> None:
    request = analysis_pb2.ExtractIdentityFeaturesRequest(
        did=payer.holder.did, recipient_address=RECIPIENT_ADDRESS
    )

    with pytest.raises(grpc.aio.AioRpcError, match="no payment intent") as refused:
        await running.analysis.ExtractIdentityFeatures(request, timeout=5)

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason(refused.value) == Reason.INTENT_INVALID
