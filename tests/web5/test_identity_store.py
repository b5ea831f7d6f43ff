"""The tables of challenges, links and the service's DID, on both databases."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anya.web5.v1.identity_pb2 import BeginVerificationResponse
from mesh.data.database import open_database
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import FailedPrecondition, Reason
from mesh.security.keystore import Keystore, KeystoreError, MasterKey
from services.web5 import link as links
from services.web5.identity import MAX_OPEN_CHALLENGES
from services.web5.store import SCHEMA
from services.web5.store.did import DidStore
from services.web5.store.identity import IdentityStore
from services.web5.store.link import LinkStore
from tests.web5.holder import SENDER_ADDRESS, Payer, signer
from tests.web5.nonce_process import judge, verdict_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mesh.data.database import Database, Transaction
    from services.web5.identity import VerificationChallenge
    from services.web5.link import Link, LinkChallenge
    from services.web5.proof import Signer

CALLER = "spiffe://anya.internal/client/operator"
DIGEST = b"\7" * 32
SERVICE = signer()


@pytest.fixture
async def database(location: str) -> AsyncIterator[Database]:
    async with open_database(location, schema=SCHEMA) as database:
        yield database


def key(request_id: str) -> IdempotencyKey:
    return IdempotencyKey(CALLER, "Method", request_id, b"body")


def challenge_reply(challenge: VerificationChallenge) -> bytes:
    return BeginVerificationResponse(
        nonce=challenge.nonce, audience=SERVICE.did, digest=challenge.digest
    ).SerializeToString()


async def begin(database: Database, payer: Payer, number: int) -> BeginVerificationResponse:
    reply = await IdentityStore(database).begin(
        key(f"begin-{number}"),
        nonce=f"{number:032}",
        did=payer.holder.did,
        digest=DIGEST,
        reply=challenge_reply,
    )
    return BeginVerificationResponse.FromString(reply)


async def verify(
    database: Database, payer: Payer, presentation: str, *, request_id: str
) -> dict[str, Any]:
    judged = judge(payer.holder.did, payer.issuer.did, SERVICE.did, DIGEST, presentation)
    reply = await IdentityStore(database).verify(key(request_id), judged, verdict_reply)
    verdict: dict[str, Any] = json.loads(reply)
    return verdict


async def count(database: Database, table: str) -> int:
    async def work(tx: Transaction) -> int:
        row = await tx.fetch_one(f"SELECT COUNT(*) FROM {table}")  # noqa: S608
        return int(row[0]) if row else 0

    return await database.read(work)


async def age(database: Database, table: str, column: str, by: int) -> None:
    """Moves stored times into the past, because the database's clock cannot be moved forward."""

    async def work(tx: Transaction) -> None:
        await tx.execute(f"UPDATE {table} SET {column} = {column} - ?", by)  # noqa: S608

    await database.write(work)


async def test_nonce_is_spent_once(database: Database, payer: Payer) -> None:
    presented = payer.present(await begin(database, payer, 1))

    verdicts = await asyncio.gather(
        *(verify(database, payer, presented, request_id=f"v-{number}") for number in range(6))
    )

    assert sum(verdict["verified"] for verdict in verdicts) == 1
    assert sum(verdict["reasons"] == ["NONCE_SPENT"] for verdict in verdicts) == 5


async def test_retry_returns_the_first_verdict_without_a_second_event(
    database: Database, payer: Payer
) -> None:
    presented = payer.present(await begin(database, payer, 1))

    first = await verify(database, payer, presented, request_id="v")
    second = await verify(database, payer, presented, request_id="v")

    assert first["verified"]
    assert second == first
    assert await count(database, "outbox") == 1


async def test_expired_nonce_is_refused(database: Database, payer: Payer) -> None:
    presented = payer.present(await begin(database, payer, 1))
    await age(database, "verification_challenge", "expires_ms", 300_000)

    verdict = await verify(database, payer, presented, request_id="v")

    assert verdict == {"verified": False, "reasons": ["NONCE_EXPIRED"]}


async def test_expired_nonces_do_not_count_as_open_and_are_deleted_after_a_day(
    database: Database, payer: Payer
) -> None:
    for number in range(MAX_OPEN_CHALLENGES):
        await begin(database, payer, number)
    await age(database, "verification_challenge", "expires_ms", 300_000 + 86_400_001)

    await begin(database, payer, 99)

    assert await count(database, "verification_challenge") == 1


async def test_two_processes_spend_each_nonce_once(location: str, payer: Payer) -> None:
    async with open_database(location, schema=SCHEMA) as database:
        presentations = [
            payer.present(await begin(database, payer, number))
            for number in range(MAX_OPEN_CHALLENGES)
        ]
    job = {
        "location": location,
        "holder": payer.holder.did,
        "issuer": payer.issuer.did,
        "audience": SERVICE.did,
        "digest": DIGEST.hex(),
        "presentations": presentations,
    }

    one, other = await asyncio.gather(
        spend_elsewhere({**job, "caller": "one"}), spend_elsewhere({**job, "caller": "other"})
    )

    assert [sum(both) for both in zip(one, other, strict=True)] == [1] * MAX_OPEN_CHALLENGES


async def spend_elsewhere(job: dict[str, Any]) -> list[bool]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.web5.nonce_process",
        cwd=Path(__file__).parents[2],
        stdin=PIPE,
        stdout=PIPE,
    )
    output, _ = await process.communicate(json.dumps(job).encode())
    assert process.returncode == 0
    spent: list[bool] = json.loads(output)
    return spent


async def test_service_did_is_created_once(database: Database) -> None:
    store = DidStore(database, Keystore(MasterKey(b"\1" * 32)))

    first, second = await asyncio.gather(store.service_signer(), store.service_signer())

    assert first == second
    assert await count(database, "did") == 1


async def test_another_master_key_cannot_open_the_service_did(database: Database) -> None:
    await DidStore(database, Keystore(MasterKey(b"\1" * 32))).service_signer()

    with pytest.raises(KeystoreError, match="does not open with this master key"):
        await DidStore(database, Keystore(MasterKey(b"\2" * 32))).service_signer()


async def link(
    store: LinkStore, holder: Signer, number: int, *, prove: bool = True, height: int = 7
) -> Link:
    """Begins and completes one link; the store does not look at the proofs."""
    made: list[Link] = []
    request = links.LinkRequest(
        did=holder.did, address=SENDER_ADDRESS, network="regtest", public=False
    )
    id = f"challenge-{number}"
    await store.begin(
        key(f"begin-{number}"), request, id=id, nonce="n" * 32, reply=lambda _: b"begun"
    )

    def proved(challenge: LinkChallenge) -> links.LinkEvidence:
        if not prove:
            raise FailedPrecondition("wrong", reason=Reason.PROOF_INVALID)
        return links.LinkEvidence(
            address_signature="s", did_proof="p", verifier="bitcoin", height=height
        )

    def remember(linked: Link, credential: str) -> bytes:
        made.append(linked)
        return credential.encode()

    await store.complete(
        key(f"end-{number}"), id, id=f"link-{number}", prove=proved, reply=remember
    )
    return made[0]


async def test_link_expires_after_180_days(database: Database, payer: Payer) -> None:
    store = LinkStore(database, SERVICE)
    made = await link(store, payer.holder, 1)
    live = await store.of_did(payer.holder.did, "regtest")
    await age(database, "address_link", "expires_at", 180 * 86_400)

    expired = await store.of_did(payer.holder.did, "regtest")

    assert live == [made]
    assert expired == []


async def test_link_after_an_expired_one_has_the_height_of_its_new_proof(
    database: Database, payer: Payer
) -> None:
    store = LinkStore(database, SERVICE)
    await link(store, payer.holder, 1, height=7)
    await age(database, "address_link", "expires_at", 180 * 86_400)

    again = await link(store, payer.holder, 2, height=9)

    assert (again.id, again.linked_height) == ("link-2", 9)
    assert await count(database, "address_link") == 1


async def test_invalid_proof_only_increases_the_attempt_count(
    database: Database, payer: Payer
) -> None:
    store = LinkStore(database, SERVICE)

    with pytest.raises(FailedPrecondition):
        await link(store, payer.holder, 1, prove=False)

    async def attempts(tx: Transaction) -> object:
        return await tx.fetch("SELECT attempts, spent FROM link_challenge")

    assert await database.read(attempts) == [(1, 0)]
    assert await count(database, "address_link") == 0
    assert await count(database, "outbox") == 0


async def test_expired_link_challenge_is_refused(database: Database, payer: Payer) -> None:
    store = LinkStore(database, SERVICE)
    request = links.LinkRequest(
        did=payer.holder.did, address=SENDER_ADDRESS, network="regtest", public=False
    )
    await store.begin(key("b"), request, id="c", nonce="n" * 32, reply=lambda _: b"")
    await age(database, "link_challenge", "expires_at", 600)

    with pytest.raises(FailedPrecondition) as refused:
        await store.complete(
            key("e"), "c", id="l", prove=lambda _: pytest.fail("judged"), reply=lambda *_: b""
        )

    assert refused.value.reason is Reason.CHALLENGE_EXPIRED
