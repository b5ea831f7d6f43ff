"""Verification of presentations and their credentials, over gRPC."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from anya.web5.v1 import identity_pb2
from formats import jose
from tests.web5.conftest import start
from tests.web5.holder import (
    Payer,
    credential_claims,
    intent,
    presentation_claims,
    signer,
    verification,
)

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.web5.config import Web5Config
    from tests.web5.conftest import Running

PRESENTATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "for another service": ({"aud": "did:key:z6Mkother"}, "WRONG_AUDIENCE"),
    "for two services": ({"aud": ["a", "b"]}, "MALFORMED"),
    "without audience": ({"aud": None}, "MALFORMED"),
    "expired": ({"iat": 1, "exp": 200}, "EXPIRED"),
    "that lives too long": ({"exp": int(time.time()) + 86_400}, "LIFETIME_TOO_LONG"),
    "from the future": (
        {"iat": int(time.time()) + 3600, "exp": int(time.time()) + 3700},
        "NOT_YET_VALID",
    ),
    "without iat": ({"iat": None}, "MALFORMED"),
    "with a time that is no number": ({"exp": "soon"}, "MALFORMED"),
    "that is not valid yet": ({"nbf": int(time.time()) + 3600}, "NOT_YET_VALID"),
    "whose beginning is no number": ({"nbf": "nan"}, "MALFORMED"),
    "whose jti is not its id": (
        {
            "jti": "urn:uuid:1",
            "vp": {
                "@context": ["https://www.w3.org/2018/credentials/v1"],
                "type": "VerifiablePresentation",
                "id": "urn:uuid:2",
            },
        },
        "MALFORMED",
    ),
    "with an unknown nonce": ({"nonce": "A" * 32}, "NONCE_UNKNOWN"),
    "with a nonce that no text holds": ({"nonce": "\0" * 32}, "NONCE_UNKNOWN"),
    "of another payment by its own words": ({"payment_digest": "00" * 32}, "WRONG_PAYMENT"),
    "with a digest that is none": ({"payment_digest": "zz" * 32}, "MALFORMED"),
    "with a digest of 31 bytes and blanks": ({"payment_digest": "00" * 31 + "  "}, "MALFORMED"),
    "in the name of another": ({"iss": "did:key:z6Mkother"}, "WRONG_HOLDER"),
    "without vp": ({"vp": None}, "MALFORMED"),
    "that is a credential too": ({"vc": {}}, "MALFORMED"),
    "without credentials": (
        {
            "vp": {
                "@context": ["https://www.w3.org/2018/credentials/v1"],
                "type": ["VerifiablePresentation"],
            }
        },
        "CREDENTIAL_MISSING",
    ),
}


@pytest.mark.parametrize(("changes", "word"), PRESENTATIONS.values(), ids=PRESENTATIONS)
async def test_invalid_presentation_is_refused_with_its_failure_code(
    running: Running, payer: Payer, changes: dict[str, Any], word: str
) -> None:
    paid = intent(payer.holder)
    begun = await running.begin(paid)

    reply = await running.verify(verification(paid, payer.present(begun, **changes)))

    assert not reply.verified
    assert identity_pb2.VerificationFailure.Value(f"VERIFICATION_FAILURE_{word}") in reply.failures
    assert not reply.attestations


CREDENTIALS: dict[str, tuple[dict[str, Any], str]] = {
    "about another subject": (
        {"sub": "did:key:z6Mkother", "vc": {"credentialSubject": {"id": "did:key:z6Mkother"}}},
        "WRONG_SUBJECT",
    ),
    "of another type": (
        {"vc": {"type": ["VerifiableCredential", "LibraryCard"]}},
        "CREDENTIAL_MISSING",
    ),
    "with a status": ({"vc": {"credentialStatus": {"id": "x"}}}, "CREDENTIAL_STATUS_UNSUPPORTED"),
    "whose nbf is not its issuanceDate": (
        {"vc": {"issuanceDate": "2020-01-01T00:00:00Z"}},
        "CREDENTIAL_INVALID",
    ),
    "expired": (
        {"exp": 1_600_000_000, "vc": {"expirationDate": "2020-09-13T12:26:40Z"}},
        "CREDENTIAL_EXPIRED",
    ),
}


@pytest.mark.parametrize(("changes", "word"), CREDENTIALS.values(), ids=CREDENTIALS)
async def test_invalid_credential_is_not_accepted(
    running: Running, payer: Payer, changes: dict[str, Any], word: str
) -> None:
    paid = intent(payer.holder)
    begun = await running.begin(paid)
    credential = payer.credential(**changes)
    presented = payer.holder.sign(presentation_claims(payer.holder, begun, credential))

    reply = await running.verify(verification(paid, presented))

    assert not reply.verified
    assert list(reply.failures) == [
        identity_pb2.VerificationFailure.Value(f"VERIFICATION_FAILURE_{word}")
    ]


async def test_credential_of_an_untrusted_issuer_is_not_accepted(
    running: Running, payer: Payer
) -> None:
    stranger = Payer(holder=payer.holder, issuer=signer())
    paid = intent(payer.holder)
    begun = await running.begin(paid)

    reply = await running.verify(verification(paid, stranger.present(begun)))

    assert not reply.verified
    assert list(reply.failures) == [identity_pb2.VERIFICATION_FAILURE_ISSUER_NOT_TRUSTED]


def untyped(payer: Payer) -> str:
    """Returns a credential of the payer's issuer whose header has neither typ nor kid."""
    claims = json.dumps(credential_claims(payer.issuer, payer.holder.did)).encode()
    return jose.sign(claims, payer.issuer.key, {})


async def test_credential_without_typ_is_accepted_by_default(
    running: Running, payer: Payer
) -> None:
    paid = intent(payer.holder)
    begun = await running.begin(paid)
    presented = payer.holder.sign(presentation_claims(payer.holder, begun, untyped(payer)))

    reply = await running.verify(verification(paid, presented))

    assert reply.verified, reply.failures


async def test_credential_without_typ_is_refused_if_the_policy_requires_it(
    config: Web5Config, authority: Authority, payer: Payer
) -> None:
    written = config.identity_policy.read_text()
    config.identity_policy.write_text(f"require_typ: true\n{written}")
    async with start(config, authority) as running:
        replies = []
        for credential in (untyped(payer), payer.credential()):
            paid = intent(payer.holder)
            begun = await running.begin(paid)
            presented = payer.holder.sign(presentation_claims(payer.holder, begun, credential))
            replies.append(await running.verify(verification(paid, presented)))

    assert list(replies[0].failures) == [identity_pb2.VERIFICATION_FAILURE_CREDENTIAL_INVALID]
    assert replies[1].verified, replies[1].failures


async def test_one_accepted_credential_suffices(running: Running, payer: Payer) -> None:
    paid = intent(payer.holder)
    begun = await running.begin(paid)
    credentials = [payer.credential(exp=1), payer.credential(), "no credential"]
    presented = payer.holder.sign(presentation_claims(payer.holder, begun, *credentials))

    reply = await running.verify(verification(paid, presented))

    assert reply.verified, reply.failures
