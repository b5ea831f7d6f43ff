"""The holder's signatures, verified by the code of the web5 service."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import UTC, datetime

import pytest

from cli.payment_client import new_id
from cli.wallet_holder import Holder
from formats import jose
from formats.did import did_jwk
from services.web5 import credential, did, link, presentation
from services.web5.did import Did

DIGEST = hashlib.sha256(b"a payment").digest()
NONCE = "n" * 22
AUDIENCE = "did:jwk:verifier"

HOLDERS = [
    pytest.param(Holder(jose.Ed25519Key.generate()), id="Ed25519"),
    pytest.param(Holder(jose.Secp256k1Key.generate()), id="secp256k1"),
]


@pytest.mark.parametrize("holder", HOLDERS)
def test_did_is_derived_from_the_key(holder: Holder) -> None:
    assert holder.did == did_jwk.encode(jose.from_jwk(holder.key.jwk))
    assert did.resolve(holder.did).methods[0].id == holder.kid


@pytest.mark.parametrize("holder", HOLDERS)
def test_presentation_proves_one_payment(holder: Holder) -> None:
    token = holder.present([], nonce=NONCE, audience=AUDIENCE, digest=DIGEST)

    shown = presentation.verify(token)

    assert shown.holder == holder.did
    assert shown.nonce == NONCE
    assert shown.payment_digest == DIGEST
    assert shown.failures(audience=AUDIENCE, now=int(time.time())) == []


def test_presentation_contains_the_credential() -> None:
    holder, issuer = Holder.generate(), Holder.generate()
    vc = issuer.issue("BiometricCredential", holder.did, {"claim": "biometric"}, lifetime=60)
    token = holder.present([vc], nonce=NONCE, audience=AUDIENCE, digest=DIGEST)

    (shown,) = presentation.verify(token).credentials

    assert isinstance(shown, credential.Credential)
    assert (shown.issuer, shown.subject) == (issuer.did, holder.did)
    assert shown.types == ("BiometricCredential",)
    shown.check_time(int(time.time()))


@pytest.mark.parametrize("public", [False, True], ids=["private", "public"])
@pytest.mark.parametrize("holder", HOLDERS)
def test_link_proof_is_accepted_by_web5(holder: Holder, public: bool) -> None:
    address = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
    request = link.LinkRequest(
        did=Did(holder.did), address=address, network="regtest", public=public
    )
    challenge = link.write_challenge(
        request, id="c1", nonce=NONCE, audience=Did("did:jwk:web5"), now=int(time.time())
    )

    token = holder.prove_link(nonce=NONCE, address=address, challenge_id="c1", public=public)

    link.check_did_proof(token, challenge)


def test_payment_id_is_a_uuidv7_of_the_current_time() -> None:
    first = new_id()

    assert first[14] == "7"
    assert first[19] in "89ab"
    milliseconds = int(first.replace("-", "")[:12], 16)
    assert abs(milliseconds / 1000 - time.time()) < 60


def test_read_message_names_the_record_and_is_signed() -> None:
    holder = Holder.generate()

    message = json.loads(holder.read_record("bafyrecord"))

    assert message["descriptor"]["filter"] == {"recordId": "bafyrecord"}
    moment = datetime.strptime(message["descriptor"]["messageTimestamp"], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert abs(moment.replace(tzinfo=UTC).timestamp() - time.time()) < 60
    signature = message["authorization"]["signature"]
    token = signature["signatures"][0]
    signed = jose.parse(f"{token['protected']}.{signature['payload']}.{token['signature']}")
    signed.verify(holder.key)
    assert signed.header["kid"] == holder.kid
