"""Claims of any type: every parser of a JWS accepts or refuses them, and no parser fails."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anya.web5.v1 import identity_pb2 as pb
from formats import jose
from mesh.errors import FailedPrecondition
from services.web5 import approval, credential, link, presentation
from services.web5.dwn import message, records_read, records_write, values
from services.web5.dwn.errors import DwnError
from services.web5.link import LinkChallenge
from services.web5.proof import VerificationError
from tests.json_values import HUGE, JSON
from tests.web5.holder import credential_claims, intent, presentation_claims, signer, verification

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.web5.conftest import Running
    from tests.web5.holder import Payer

SIGNER = signer(jose.Ed25519Key.from_secret(b"\1" * 32))
NOW = int(time.time())
DIGEST = bytes(range(32))
CHALLENGE = LinkChallenge(
    id="00000000-0000-4000-8000-000000000000",
    did=SIGNER.did,
    address="bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
    network="regtest",
    public=True,
    nonce="A" * 32,
    message="",
    expires_at=NOW + 600,
)
BEGUN = pb.BeginVerificationResponse(nonce="A" * 32, audience="did:key:z6Mk", digest=DIGEST)

WRONG: list[Any] = [None, True, 0.5, -1, HUGE, "", "nan", "\0", [], [[]], {}, {"id": 1}]


@dataclass(frozen=True, slots=True)
class Parser:
    """A parser of signed claims, valid claims for it, and the errors that it may raise."""

    claims: dict[str, Any]
    required: tuple[str, ...]  # claims whose value the parser checks
    typ: str
    parse: Callable[[str], object]
    texts: tuple[str, ...] = ()  # claims of which it checks the type only
    errors: tuple[type[Exception], ...] = (VerificationError,)

    def read(self, claims: Any, header: dict[str, Any] | None = None) -> Exception | None:
        """Signs and parses claims; returns the error if the parser refuses them."""
        header = {"alg": "EdDSA", "kid": SIGNER.kid, "typ": self.typ} | (header or {})
        signed = ".".join(jose.encode(json.dumps(part).encode()) for part in (header, claims))
        try:
            self.parse(f"{signed}.{jose.encode(SIGNER.key.sign(signed.encode()))}")
        except self.errors as error:
            return error
        return None


def read_approval(token: str) -> object:
    return approval.verify(token, run_id="run", step="agree", digest=DIGEST, now=NOW)


def read_did_proof(token: str) -> None:
    link.check_did_proof(token, CHALLENGE)


PARSERS = {
    "credential": Parser(
        credential_claims(SIGNER, SIGNER.did),
        ("iss", "sub", "jti", "nbf", "exp", "vc"),
        "JWT",
        credential.verify,
    ),
    "presentation": Parser(
        presentation_claims(SIGNER, BEGUN) | {"jti": "urn:uuid:1", "nbf": NOW},
        ("iss", "iat", "exp", "payment_digest", "vp"),
        "JWT",
        presentation.verify,
        ("aud", "nonce", "jti"),
    ),
    "approval": Parser(
        {
            "iss": SIGNER.did,
            "run_id": "run",
            "step": "agree",
            "digest": DIGEST.hex(),
            "decision": "approve",
            "iat": NOW,
        },
        ("iss", "run_id", "step", "digest", "decision", "iat"),
        approval.TYPE,
        read_approval,
    ),
    "did proof": Parser(
        {
            "nonce": CHALLENGE.nonce,
            "address": CHALLENGE.address,
            "did": CHALLENGE.did,
            "challenge_id": CHALLENGE.id,
            "public": True,
        },
        ("nonce", "address", "did", "challenge_id"),
        "JWT",
        read_did_proof,
        errors=(FailedPrecondition,),
    ),
}
CLAIMS = [
    (name, claim) for name, parser in PARSERS.items() for claim in (*parser.required, *parser.texts)
]


@pytest.mark.parametrize("name", PARSERS)
def test_valid_claims_are_accepted(name: str) -> None:
    assert PARSERS[name].read(PARSERS[name].claims) is None


@pytest.mark.parametrize(("name", "claim"), CLAIMS)
def test_claim_of_a_wrong_type_is_refused(name: str, claim: str) -> None:
    parser = PARSERS[name]
    for value in WRONG:
        if value and isinstance(value, str) and claim in parser.texts:
            continue
        assert parser.read(parser.claims | {claim: value}), f"{claim}: {str(value)[:20]}"


@pytest.mark.parametrize(
    "claim", ["iat", "exp", "nbf"], ids=lambda claim: f"presentation's {claim}"
)
@pytest.mark.parametrize("value", ["nan", HUGE, -HUGE, True, [NOW], 253_402_300_800, -1])
def test_time_out_of_range_is_refused_by_name(claim: str, value: Any) -> None:
    parser = PARSERS["presentation"]

    assert f"{claim} must be a time" in str(parser.read(parser.claims | {claim: value}))


@pytest.mark.parametrize("value", [1, 1.0, "true", None, False])
def test_consent_to_a_public_link_is_true_and_nothing_else(value: Any) -> None:
    parser = PARSERS["did proof"]

    assert parser.read(parser.claims | {"public": value})


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("payload", [*WRONG, 1, "text"], ids=lambda value: str(value)[:20])
def test_payload_without_claims_is_refused(name: str, payload: Any) -> None:
    assert PARSERS[name].read(payload)


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("member", ["alg", "kid", "typ"])
def test_header_of_a_wrong_type_is_refused(name: str, member: str) -> None:
    parser = PARSERS[name]
    for value in WRONG:
        assert parser.read(parser.claims, {member: value}), f"{member}: {str(value)[:20]}"


@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_parser_raises_only_its_own_errors(name: str, data: st.DataObject) -> None:
    parser = PARSERS[name]
    claims = json.loads(json.dumps(parser.claims))
    inner = claims.get("vc", claims.get("vp", claims))
    for place in (claims, inner):
        member = data.draw(st.sampled_from(sorted(place)) | st.text(max_size=3))
        place[member] = data.draw(JSON)

    headers: list[dict[str, Any]] = [{}, {"kid": None}, {"b64": False}]
    parser.read(claims, data.draw(st.sampled_from(headers)))


NODE_TIME = datetime(2026, 1, 1, tzinfo=UTC)
READ = json.loads(records_read.create({"recordId": "a"}, NODE_TIME, SIGNER))
WRITE = json.loads(records_write.create(b"x", SIGNER, NODE_TIME, data_format="text/plain"))


def read_message(raw: bytes) -> Exception | None:
    """Parses a DWN message as the node does; returns the error if it refuses the message."""
    try:
        parsed = message.parse(raw, NODE_TIME)
        parsed.authenticate()
        if parsed.kind == "RecordsWrite":
            records_write.parse(parsed)
    except (DwnError, values.MalformedError) as error:
        return error
    return None


def signed_again(sent: dict[str, Any], **claims: Any) -> dict[str, Any]:
    """Returns the message with these claims in its authorization, and a valid signature."""
    payload = json.loads(jose.decode(sent["authorization"]["signature"]["payload"]))
    body = jose.encode(json.dumps(payload | claims).encode())
    header = jose.encode(json.dumps({"kid": SIGNER.kid, "alg": "EdDSA"}).encode())
    signature = jose.encode(SIGNER.key.sign(f"{header}.{body}".encode()))
    entry = {"protected": header, "signature": signature}
    return sent | {"authorization": {"signature": {"payload": body, "signatures": [entry]}}}


@pytest.mark.parametrize("sent", [READ, WRITE], ids=["RecordsRead", "RecordsWrite"])
@pytest.mark.parametrize("claim", ["descriptorCid", "recordId", "contextId", "protocolRole", "x"])
def test_claim_of_a_wrong_type_in_an_authorization_is_refused(
    sent: dict[str, Any], claim: str
) -> None:
    assert read_message(json.dumps(signed_again(sent)).encode()) is None
    for value in WRONG:
        if claim == "protocolRole" and isinstance(value, str):
            continue  # of the right type: the methods refuse a role that no protocol has
        raw = json.dumps(signed_again(sent, **{claim: value})).encode()
        assert read_message(raw), f"{claim}: {str(value)[:20]}"


@given(st.sampled_from([READ, WRITE]), st.data())
def test_node_raises_only_its_own_errors(sent: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(json.dumps(sent))
    places = [
        changed,
        changed["descriptor"],
        changed["authorization"],
        changed["authorization"]["signature"],
        changed["authorization"]["signature"]["signatures"][0],
    ]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)

    read_message(json.dumps(changed).encode())


@given(st.sampled_from([READ, WRITE]), st.sampled_from(["descriptorCid", "recordId"]), JSON)
def test_node_refuses_any_other_claim_of_an_authorization(
    sent: dict[str, Any], claim: str, value: Any
) -> None:
    assert read_message(json.dumps(signed_again(sent, **{claim: value})).encode())


@pytest.mark.parametrize("claim", ["iss", "aud", "nonce", "iat", "exp", "nbf", "vp"])
async def test_service_answers_a_claim_of_a_wrong_type(
    running: Running, payer: Payer, claim: str
) -> None:
    for value in ("nan", HUGE, None, {"x": 1}):
        paid = intent(payer.holder)
        begun = await running.begin(paid)

        reply = await running.verify(verification(paid, payer.present(begun, **{claim: value})))

        assert not reply.verified
        assert reply.failures
