"""A payment with web5 and bitcoin, based on real proofs of the payer only."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import analysis_pb2, ownership_pb2, wallet_pb2
from anya.bitcoin.v1.analysis_pb2_grpc import AnalysisServiceStub
from anya.mesh.v1.attestation_pb2 import PaymentIntent, RunContext
from anya.web5.v1 import analysis_pb2 as identity_features_pb2
from anya.web5.v1 import identity_pb2
from mesh.config import MeshConfig
from mesh.security.attestation import payment_digest
from services.web5.config import Web5Config
from tests.bitcoin import funded_mesh as bitcoin_funded_mesh
from tests.web5.conftest import POLICY, start
from tests.web5.holder import Payer, did_proof, signer, verification

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority
    from tests.bitcoin.funded_mesh import FundedMesh
    from tests.web5.conftest import Running


async def test_payment_is_made_on_real_proofs_of_the_payer(
    authority: Authority, tmp_path: Path
) -> None:
    payer = Payer(holder=signer(), issuer=signer())
    async with (
        bitcoin_funded_mesh.open_funded_mesh(
            bitcoin_funded_mesh.config(authority, tmp_path / "bitcoin"), authority
        ) as bitcoin_mesh,
        start(web5_config(authority, tmp_path, payer), authority) as web5,
    ):
        linked = await link(web5, bitcoin_mesh, payer)
        intent = PaymentIntent(
            network="regtest",
            payment_id=bitcoin_funded_mesh.new_payment_id(),
            sender_did=payer.holder.did,
            sender_address=bitcoin_mesh.address,
            recipient_address=bitcoin_funded_mesh.RECIPIENT,
            amount_sat=1_000_000,
        )
        presented = payer.present(await web5.begin(intent))
        verified = await web5.verify(verification(intent, presented))
        features = await extract_features(web5, bitcoin_mesh, intent)
        sent = await pay(bitcoin_mesh, intent, verified)

    assert linked.linked_height == 101
    assert (verified.verified, verified.address_linked) == (True, True)
    assert [feature.name for feature in features.features.features]
    assert sent.txid


def web5_config(authority: Authority, folder: Path, payer: Payer) -> Web5Config:
    mesh = MeshConfig(service="web5", identity=authority.issue_service("web5"), home=folder)
    config = Web5Config.at_home(mesh)
    config.identity_policy.parent.mkdir()
    config.identity_policy.write_text(POLICY.format(issuer=payer.issuer.did))
    return config


async def link(
    web5: Running, bitcoin_mesh: FundedMesh, payer: Payer
) -> identity_pb2.CompleteAddressLinkResponse:
    """Links an address as a client and the workflow link_address do, signed by a managed wallet."""
    begun = await web5.identity.BeginAddressLink(
        identity_pb2.BeginAddressLinkRequest(
            request_id=uuid.uuid4().hex,
            did=payer.holder.did,
            address=bitcoin_mesh.address,
            network="regtest",
        ),
        timeout=5,
    )
    signed = await bitcoin_mesh.ownership.SignOwnership(
        ownership_pb2.SignOwnershipRequest(address=bitcoin_mesh.address, message=begun.message)
    )
    owned = await bitcoin_mesh.ownership.VerifyOwnership(
        ownership_pb2.VerifyOwnershipRequest(
            address=bitcoin_mesh.address, message=begun.message, signature=signed.signature
        )
    )
    return await web5.engine.CompleteAddressLink(
        identity_pb2.CompleteAddressLinkRequest(
            request_id=uuid.uuid4().hex,
            challenge_id=begun.challenge_id,
            did_proof=did_proof(payer.holder, begun, address=bitcoin_mesh.address),
            address_signature=signed.signature,
            context=RunContext(attestations=owned.attestations),
        ),
        timeout=5,
    )


async def extract_features(
    web5: Running, bitcoin_mesh: FundedMesh, intent: PaymentIntent
) -> analysis_pb2.ExtractPaymentFeaturesResponse:
    known = await web5.analysis.ExtractIdentityFeatures(
        identity_features_pb2.ExtractIdentityFeaturesRequest(
            did=intent.sender_did,
            recipient_address=intent.recipient_address,
            context=RunContext(intent=intent),
        ),
        timeout=5,
    )
    return await AnalysisServiceStub(bitcoin_mesh.orchestrator).ExtractPaymentFeatures(
        analysis_pb2.ExtractPaymentFeaturesRequest(
            recipient_address=intent.recipient_address,
            amount_sat=intent.amount_sat,
            links=known.links,
            context=RunContext(intent=intent, attestations=known.attestations),
        )
    )


async def pay(
    bitcoin_mesh: FundedMesh, intent: PaymentIntent, verified: identity_pb2.VerifyIdentityResponse
) -> wallet_pb2.SendPaymentResponse:
    """Sends the payment with the payer's proofs and an attestation of low risk by ml."""
    risk = bitcoin_mesh.attestors["ml"].attest(
        "risk", payment_digest(intent), values={"score": 0.1, "decision": "accept"}
    )
    return await bitcoin_mesh.spender.SendPayment(
        wallet_pb2.SendPaymentRequest(
            request_id=intent.payment_id,
            from_address=intent.sender_address,
            to_address=intent.recipient_address,
            amount_sat=intent.amount_sat,
            context=RunContext(intent=intent, attestations=[*verified.attestations, risk]),
        )
    )
