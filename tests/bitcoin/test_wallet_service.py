"""Wallets and ownership proofs through the wire."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from anya.bitcoin.v1 import chain_pb2, ownership_pb2
from anya.bitcoin.v1 import wallet_pb2 as pb
from mesh.security.address_link import AddressLinkText
from mesh.security.attestation import Verifier
from mesh.security.keystore import Keystore, MasterKey
from mesh.settings import ConfigError
from mesh.testing import detail, reason
from services.bitcoin.descriptor import SEED_BYTES
from tests.bitcoin.funded_mesh import (
    COINBASE_SAT,
    RECIPIENT,
    FundedMesh,
    config,
    open_funded_mesh,
    running,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
async def payer(authority: Authority, tmp_path: Path) -> AsyncIterator[FundedMesh]:
    async with open_funded_mesh(config(authority, tmp_path), authority) as people:
        yield people


def link(address: str, network: str = "regtest") -> str:
    return AddressLinkText(
        audience="did:jwk:eyJrdHkiOiJPS1AifQ",
        address=address,
        did="did:jwk:eyJrdHkiOiJPS1AifQ",
        network=network,
        challenge_id="challenge-1",
        nonce="n" * 22,
        issued_at=NOW,
        expires_at=NOW,
    ).format()


async def sign(payer: FundedMesh, address: str, message: str) -> str:
    reply = await payer.ownership.SignOwnership(
        ownership_pb2.SignOwnershipRequest(address=address, message=message)
    )
    return reply.signature


async def verify(
    payer: FundedMesh, address: str, message: str, signature: str
) -> ownership_pb2.VerifyOwnershipResponse:
    return await payer.ownership.VerifyOwnership(
        ownership_pb2.VerifyOwnershipRequest(address=address, message=message, signature=signature)
    )


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def balance(payer: FundedMesh, address: str = "") -> pb.GetBalanceResponse:
    request = pb.GetBalanceRequest(wallet_id=payer.wallet_id, address=address)
    return await payer.wallet.GetBalance(request)


async def test_wallet_is_created_once_per_request(payer: FundedMesh) -> None:
    request = pb.CreateWalletRequest(request_id="r-1", name="savings")

    first = await payer.wallet.CreateWallet(request)
    second = await payer.wallet.CreateWallet(request)

    assert second == first
    assert first.wallet.descriptor.startswith("wpkh([")
    assert await payer.events("bitcoin.wallet.") == ["created", "created"]


async def test_second_wallet_of_the_same_name_is_refused(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.wallet.CreateWallet(pb.CreateWalletRequest(request_id="r-1", name="payer"))

    assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason(refusal.value) == "WALLET_EXISTS"


@pytest.mark.parametrize("name", ["", "Payer", "a" * 65, "a b", "ä"])
async def test_malformed_wallet_name_is_refused(payer: FundedMesh, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.wallet.CreateWallet(pb.CreateWalletRequest(request_id="r-1", name=name))

    violations = detail(refusal.value, BadRequest).field_violations
    assert [violation.field for violation in violations] == ["name"]


async def test_wallets_are_paged_without_gaps(payer: FundedMesh) -> None:
    for number in range(4):
        await payer.wallet.CreateWallet(
            pb.CreateWalletRequest(request_id=f"r-{number}", name=f"wallet-{number}")
        )

    whole = await payer.wallet.ListWallets(pb.ListWalletsRequest())
    head = await payer.wallet.ListWallets(pb.ListWalletsRequest(page_size=3))
    tail = await payer.wallet.ListWallets(
        pb.ListWalletsRequest(page_size=3, page_token=head.next_page_token)
    )

    assert [*head.wallets, *tail.wallets] == list(whole.wallets)
    assert whole.wallets[0].name == "payer"
    assert len(whole.wallets) == 5
    assert not tail.next_page_token


async def test_addresses_derived_at_once_are_all_different(payer: FundedMesh) -> None:
    addresses = await asyncio.gather(*(payer.derive() for _ in range(20)))

    assert len({*addresses, payer.address}) == 21


async def test_retry_derives_no_further_address(payer: FundedMesh) -> None:
    request = pb.DeriveAddressRequest(request_id="r-1", wallet_id=payer.wallet_id)

    replies = [await payer.wallet.DeriveAddress(request) for _ in range(2)]

    assert replies[0] == replies[1]
    assert replies[0].index == 1


async def test_unknown_wallet_is_not_found(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await payer.wallet.DeriveAddress(
            pb.DeriveAddressRequest(request_id="r-1", wallet_id="unknown")
        )

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_immature_coinbase_is_not_part_of_the_confirmed_balance(payer: FundedMesh) -> None:
    await payer.mine(1, payer.address)
    young = await balance(payer)
    await payer.mine(99)
    almost = await balance(payer)
    await payer.mine(1)
    mature = await balance(payer, payer.address)

    assert (young.confirmed_sat, young.immature_sat) == (COINBASE_SAT, COINBASE_SAT)
    assert almost.confirmed_sat == 2 * COINBASE_SAT  # mature for the next block
    assert (mature.confirmed_sat, mature.immature_sat) == (2 * COINBASE_SAT, 0)


async def test_balance_of_a_foreign_address_is_not_found(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await balance(payer, RECIPIENT)

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_wallets_and_addresses_survive_a_restart(
    authority: Authority, tmp_path: Path
) -> None:
    settings = config(authority, tmp_path)
    async with open_funded_mesh(settings, authority) as people:
        wallet_id, address = people.wallet_id, people.address

    async with running(settings, authority) as people:
        people.wallet_id = wallet_id
        second = await people.derive()
        signature = await sign(people, address, link(address))

        assert second != address
        assert (await verify(people, address, link(address), signature)).verified


async def test_wrong_master_key_prevents_the_start(authority: Authority, tmp_path: Path) -> None:
    settings = config(authority, tmp_path / "home")
    async with open_funded_mesh(settings, authority):
        pass
    foreign = replace(settings, master_key_file=str(tmp_path / "foreign.key"))

    with pytest.raises(ConfigError, match="not the key of this store"):
        async with running(foreign, authority):
            pass


async def test_wallet_proves_that_it_owns_its_address(
    authority: Authority, payer: FundedMesh
) -> None:
    message = link(payer.address)
    signature = await sign(payer, payer.address, message)

    verdict = await verify(payer, payer.address, message, signature)

    info = await payer.chain.GetChainInfo(chain_pb2.GetChainInfoRequest())
    verifier = Verifier(authority.issue_service("web5").ca, "anya.internal")
    digest = sha256(message.encode()).digest()
    proof = verifier.verify(verdict.attestations[0], "ownership", digest)
    assert verdict.verified
    assert verdict.height == info.height
    assert proof.values == {
        "address": payer.address,
        "height": info.height,
        "signature_sha256": sha256(signature.encode()).hexdigest(),
    }


async def test_wrong_signature_is_a_verdict_and_attests_nothing(payer: FundedMesh) -> None:
    signature = await sign(payer, payer.address, link(payer.address))

    verdict = await verify(payer, payer.address, "another text", signature)

    assert not verdict.verified
    assert verdict.reason == "SIGNATURE_INVALID"
    assert not verdict.attestations


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("I owe Mallory 100 BTC", id="any text"),
        pytest.param(link(RECIPIENT), id="a link of another address"),
    ],
)
async def test_only_a_link_of_the_address_is_signed(payer: FundedMesh, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await sign(payer, payer.address, text)

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_link_on_another_chain_is_not_signed(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await sign(payer, payer.address, link(payer.address, "main"))

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_address_without_a_wallet_signs_nothing(payer: FundedMesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await sign(payer, RECIPIENT, link(RECIPIENT))

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


async def test_seeds_on_disk_are_sealed(authority: Authority, tmp_path: Path) -> None:
    settings = config(authority, tmp_path)
    async with open_funded_mesh(settings, authority) as people:
        await people.spender.SendPayment(people.payment_request())
        wallet_id = people.wallet_id

    with closing(sqlite3.connect(settings.location)) as database:
        (sealed,) = database.execute("SELECT sealed_seed FROM wallet").fetchone()
    keystore = Keystore(MasterKey.from_file(settings.master_key))
    entropy = keystore.open(f"wallet/{wallet_id}", sealed)
    stored = everything_in(tmp_path)
    assert len(entropy) == SEED_BYTES
    assert sealed in stored
    assert entropy not in stored
    assert b"prv" not in stored
