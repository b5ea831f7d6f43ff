"""The demo's identities: a payer with wallet, credential and linked address; a stranger."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anya.bitcoin.v1 import ownership_pb2, wallet_pb2
from anya.bitcoin.v1.ownership_pb2_grpc import OwnershipServiceStub
from anya.bitcoin.v1.wallet_pb2_grpc import WalletServiceStub
from anya.web5.v1 import did_pb2, identity_pb2
from anya.web5.v1.did_pb2_grpc import DidServiceStub
from anya.web5.v1.identity_pb2_grpc import IdentityServiceStub
from cli import payment_client, runs
from cli.connection import traced
from cli.errors import CommandError
from cli.identities import CREDENTIAL, ISSUER, Identities

if TYPE_CHECKING:
    from cli.connection import Channels
    from cli.home import Home
    from cli.identities import Identity

WALLET = "demo-payer"
CREDENTIAL_LIFETIME_S = 365 * 86_400
CLAIMS = {"biometric": "verified"}  # by the issuer's word: nothing is measured here
LINK = "link_address"


async def enter(home: Home, channels: Channels, name: str) -> Identity:
    """Returns the identity of this name: its DID, and a new credential from the demo's issuer."""
    identities = Identities(home)
    person, issuer = identities.ensure(name), identities.ensure(ISSUER).holder
    credential = issuer.issue(CREDENTIAL, person.did, CLAIMS, lifetime=CREDENTIAL_LIFETIME_S)
    person = replace(person, credentials=(credential,))
    identities.save(person)
    await DidServiceStub(channels["web5"]).ResolveDid(did_pb2.ResolveDidRequest(did=person.did))
    return person


async def open_wallet(home: Home, channels: Channels, payer: Identity) -> tuple[Identity, str]:
    """Returns the payer and its wallet's first address; creates both at the first call."""
    stub = WalletServiceStub(channels["bitcoin"])
    created = await stub.CreateWallet(
        wallet_pb2.CreateWalletRequest(request_id=WALLET, name=WALLET)
    )
    payer = replace(payer, wallet_id=created.wallet.wallet_id)
    Identities(home).save(payer)
    derived = await stub.DeriveAddress(
        wallet_pb2.DeriveAddressRequest(request_id=f"{WALLET}/address", wallet_id=payer.wallet_id)
    )
    return payer, derived.address


async def link(home: Home, channels: Channels, payer: Identity, address: str) -> Identity:
    """Links the address to the payer's DID, by two signatures over one nonce."""
    web5, bitcoin = channels["web5"], channels["bitcoin"]
    challenge = await IdentityServiceStub(web5).BeginAddressLink(
        identity_pb2.BeginAddressLinkRequest(
            request_id=payment_client.new_id(),
            did=payer.did,
            address=address,
            network=await payment_client.network(channels),
        )
    )
    owned = await OwnershipServiceStub(bitcoin).SignOwnership(
        ownership_pb2.SignOwnershipRequest(address=address, message=challenge.message)
    )
    value = {
        "address": address,
        "message": challenge.message,
        "address_signature": owned.signature,
        "challenge_id": challenge.challenge_id,
        "did_proof": payer.holder.prove_link(
            nonce=challenge.nonce, address=address, challenge_id=challenge.challenge_id
        ),
    }
    with traced("link address"):
        started = await runs.start(channels, LINK, value)
    run = await runs.finish(channels, started.run_id)
    if runs.exit_code(run.status):
        raise CommandError(
            f"{address} could not be linked: {run.reason}",
            reason="LINK_FAILED",
            remedy=f"anya run show {run.run_id}",
        )
    payer = replace(payer, addresses=(address,))
    Identities(home).save(payer)
    return payer
