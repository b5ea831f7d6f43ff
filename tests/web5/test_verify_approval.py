"""Approvals of run steps, over gRPC: valid ones are accepted, all others are refused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from anya.web5.v1 import identity_pb2 as pb
from formats import jose
from mesh.testing import reason
from services.web5.approval import TYPE
from services.web5.did import Method
from tests.web5.holder import signer

if TYPE_CHECKING:
    from services.web5.proof import Signer
    from tests.web5.conftest import Running

DIGEST = bytes(range(32))


def claims(by: Signer, **changes: Any) -> dict[str, Any]:
    return {
        "iss": by.did,
        "run_id": "run",
        "step": "agree",
        "digest": DIGEST.hex(),
        "decision": "approve",
        "iat": int(time.time()),
    } | changes


def request(approval: str) -> pb.VerifyApprovalRequest:
    return pb.VerifyApprovalRequest(approval=approval, run_id="run", step="agree", digest=DIGEST)


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("curve", [jose.Ed25519Key, jose.Secp256k1Key])
async def test_reply_has_approver_and_decision(
    running: Running, curve: type[jose.Ed25519Key | jose.Secp256k1Key], method: Method
) -> None:
    by = signer(curve.generate(), method)

    yes = await running.engine.VerifyApproval(request(by.sign(claims(by), typ=TYPE)), timeout=5)
    signed = by.sign(claims(by, decision="reject"), typ=TYPE)
    no = await running.engine.VerifyApproval(request(signed), timeout=5)

    assert (yes.approver, yes.approved) == (by.did, True)
    assert (no.approver, no.approved) == (by.did, False)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"run_id": "another"}, "WRONG_SUBJECT"),
        ({"step": "another"}, "WRONG_SUBJECT"),
        ({"digest": bytes(32).hex()}, "WRONG_SUBJECT"),
        ({"digest": DIGEST.hex().upper()}, "WRONG_SUBJECT"),
        ({"decision": "maybe"}, "MALFORMED"),
        ({"decision": True}, "MALFORMED"),
        ({"iss": "did:key:z6MkSomebodyElse"}, "WRONG_HOLDER"),
        ({"iat": 253_402_300_000}, "NOT_YET_VALID"),
        ({"iat": "now"}, "MALFORMED"),
        ({"more": 1}, "MALFORMED"),
    ],
    ids=str,
)
async def test_approval_with_another_payload_is_refused(
    running: Running, changes: dict[str, Any], word: str
) -> None:
    by = signer()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.engine.VerifyApproval(
            request(by.sign(claims(by, **changes), typ=TYPE)), timeout=5
        )

    assert reason(refused.value) == "PROOF_INVALID"
    assert word in (refused.value.details() or "")


@pytest.mark.parametrize("typ", ["JWT", "vp+jwt", "anya-attestation+jwt"])
async def test_jws_signed_for_another_use_is_no_approval(running: Running, typ: str) -> None:
    by = signer()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.engine.VerifyApproval(request(by.sign(claims(by), typ=typ)), timeout=5)

    assert reason(refused.value) == "PROOF_INVALID"


async def test_approval_by_a_key_that_the_did_does_not_list_is_refused(running: Running) -> None:
    by, other = signer(), signer()
    forged = type(by)(by.did, by.kid, other.key)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.engine.VerifyApproval(request(forged.sign(claims(by), typ=TYPE)), timeout=5)

    assert "SIGNATURE_INVALID" in (refused.value.details() or "")


async def test_missing_approval_is_refused(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.engine.VerifyApproval(request(""), timeout=5)

    assert reason(refused.value) == "PROOF_MISSING"


async def test_only_the_orchestrator_may_verify_approvals(running: Running) -> None:
    by = signer()

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.identity.VerifyApproval(request(by.sign(claims(by), typ=TYPE)), timeout=5)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
