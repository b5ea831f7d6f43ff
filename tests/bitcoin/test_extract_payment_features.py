"""ExtractPaymentFeatures through the wire: attested links in, attested features out."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.bitcoin.v1 import analysis_pb2 as pb
from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1.analysis_pb2_grpc import AnalysisServiceStub
from anya.mesh.v1.attestation_pb2 import PaymentIntent, RunContext
from anya.mesh.v1.features_pb2 import FEATURE_STATUS_PRESENT, AddressLink, AddressLinks
from features.payment_risk import PAYMENT_RISK
from mesh.security.attestation import Verifier, payment_digest
from mesh.testing import reason
from tests.bitcoin.funded_mesh import (
    MATURITY_BLOCKS,
    RECIPIENT,
    SENDER,
    FundedMesh,
    config,
    new_payment_id,
    open_funded_mesh,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority

AMOUNT_SAT = 1_000_000


@pytest.fixture
async def payer(authority: Authority, tmp_path: Path) -> AsyncIterator[FundedMesh]:
    async with open_funded_mesh(config(authority, tmp_path), authority) as people:
        yield people


def request(payer: FundedMesh, *, issuer: str = "web5") -> pb.ExtractPaymentFeaturesRequest:
    intent = PaymentIntent(
        network="regtest",
        payment_id=new_payment_id(),
        sender_did=SENDER,
        sender_address=payer.address,
        recipient_address=RECIPIENT,
        amount_sat=AMOUNT_SAT,
    )
    links = AddressLinks(sender=[AddressLink(address=payer.address, linked_height=1)])
    values = {"sha256": sha256(links.SerializeToString(deterministic=True)).hexdigest()}
    attestation = payer.attestors[issuer].attest(
        "identity_features", payment_digest(intent), values=values
    )
    return pb.ExtractPaymentFeaturesRequest(
        recipient_address=RECIPIENT,
        amount_sat=AMOUNT_SAT,
        links=links,
        context=RunContext(intent=intent, attestations=[attestation]),
    )


async def extract(
    payer: FundedMesh, asked: pb.ExtractPaymentFeaturesRequest
) -> pb.ExtractPaymentFeaturesResponse:
    return await AnalysisServiceStub(payer.orchestrator).ExtractPaymentFeatures(asked)


async def refusal(
    payer: FundedMesh, asked: pb.ExtractPaymentFeaturesRequest
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await extract(payer, asked)
    return raised.value


async def test_features_are_those_of_the_set_as_of_the_tip(payer: FundedMesh) -> None:
    reply = await extract(payer, request(payer))

    vector = reply.features
    tip = await payer.chain.GetChainInfo(chain_pb2.GetChainInfoRequest())
    values = {
        feature.name: feature.value
        for feature in vector.features
        if feature.status == FEATURE_STATUS_PRESENT
    }
    assert tuple(feature.name for feature in vector.features) == PAYMENT_RISK.names
    assert vector.feature_set_hash.hex() == PAYMENT_RISK.hash
    assert (vector.as_of_height, vector.as_of_block_hash) == (tip.height, tip.tip_hash)
    assert vector.index_at_tip
    assert values["recipient_seen"] == 0
    assert values["sender_age_blocks"] == MATURITY_BLOCKS
    assert values["amount_to_sender_balance"] == AMOUNT_SAT / (50 * 100_000_000)
    assert values["sender_link_age_blocks"] == tip.height - 1


async def test_blocks_connected_during_the_call_do_not_put_the_index_behind(
    payer: FundedMesh,
) -> None:
    replies, _ = await asyncio.gather(
        asyncio.gather(*(extract(payer, request(payer)) for _ in range(32))), payer.mine(20)
    )

    assert all(reply.features.index_at_tip for reply in replies)


async def test_confirmed_payment_shows_in_the_next_features(payer: FundedMesh) -> None:
    await payer.spender.SendPayment(payer.payment_request(amount_sat=AMOUNT_SAT))
    await payer.mine()

    reply = await extract(payer, request(payer))

    values = {feature.name: feature.value for feature in reply.features.features}
    assert values["recipient_receipts"] == 1
    assert values["pair_payments"] == 1
    assert values["sender_payments"] == 1


async def test_features_are_attested_bit_for_bit(authority: Authority, payer: FundedMesh) -> None:
    asked = request(payer)

    reply = await extract(payer, asked)

    verifier = Verifier(authority.issue_service("ml").ca, "anya.internal")
    digest = payment_digest(asked.context.intent)
    proof = verifier.verify(reply.attestations[0], "payment_features", digest)
    raw = reply.features.SerializeToString(deterministic=True)
    assert proof.values["sha256"] == sha256(raw).hexdigest()


async def test_links_that_web5_did_not_attest_are_refused(payer: FundedMesh) -> None:
    asked = request(payer)
    asked.links.sender[0].linked_height = 100

    assert reason(await refusal(payer, asked)) == "PROOF_INVALID"


async def test_links_without_an_attestation_are_refused(payer: FundedMesh) -> None:
    asked = request(payer)
    del asked.context.attestations[:]

    assert reason(await refusal(payer, asked)) == "PROOF_MISSING"


async def test_links_attested_by_another_service_are_refused(payer: FundedMesh) -> None:
    assert reason(await refusal(payer, request(payer, issuer="ml"))) == "PROOF_INVALID"


async def test_request_about_another_payment_is_refused(payer: FundedMesh) -> None:
    asked = request(payer)
    asked.amount_sat += 1

    assert reason(await refusal(payer, asked)) == "PROOF_INVALID"


async def test_address_of_another_network_is_refused(payer: FundedMesh) -> None:
    asked = request(payer)
    asked.recipient_address = "bc1q9vza2e8x573nczrlzms0wvx3gsqjx7vavgkx0l"

    assert (await refusal(payer, asked)).code() is grpc.StatusCode.INVALID_ARGUMENT
