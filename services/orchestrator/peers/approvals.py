"""Approvals of what runs ask: verified by web5, and stored for the run only then."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from anya.web5.v1 import identity_pb2 as web5
from formats import jose
from mesh.errors import FailedPrecondition, NotFound, PermissionDenied, Reason, Unavailable
from services.orchestrator.engine.activations import DecisionReceived
from services.orchestrator.engine.model import Phase, StepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.engine.model import RunState, StepState
    from services.orchestrator.peers import Peers
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.worker.worker import Worker

SERVICE = "web5"
VERIFY = "/anya.web5.v1.IdentityService/VerifyApproval"
REFUSED = ("FAILED_PRECONDITION", "INVALID_ARGUMENT")  # web5 has judged it

Reply: TypeAlias = "Callable[[DecisionReceived], bytes]"


class Approvals:
    def __init__(self, runs: RunStore, runner: Worker, peers: Peers) -> None:
        self._runs = runs
        self._runner = runner
        self._peers = peers

    async def approve(
        self, key: IdempotencyKey, run_id: str, path: str, jws: str, reply: Reply
    ) -> bytes:
        """Give the step at ``path`` a signed decision, once per ``key``.

        NotFound, FailedPrecondition, PermissionDenied or Unavailable, as ApproveRun says.
        """
        first = await self._runs.messages.first_reply(key)
        if first is not None:
            return first
        asking = _asking((await self._runs.load(run_id)).state, path)
        digest = str(asking.input["digest"])
        approver, approves = await self._verify(run_id, path, digest, jws)
        if approver not in asking.input["asked"]["approvers"]:
            raise PermissionDenied(
                f"{approver} is none of the approvers of {path}",
                reason=Reason.PERMISSION_NOT_GRANTED,
            )
        if approver in asking.decisions:
            raise _not_asked(f"{approver} has decided about {path} already")
        approved = DecisionReceived(path, approver, approves, digest, jws)
        return await self._runner.send(key, run_id, approved, reply(approved))

    async def _verify(self, run_id: str, path: str, digest: str, jws: str) -> tuple[str, bool]:
        request = web5.VerifyApprovalRequest(
            approval=jws, run_id=run_id, step=path, digest=bytes.fromhex(digest)
        )
        answer = await self._peers.call(SERVICE, VERIFY, request.SerializeToString())
        if isinstance(answer, StepError):
            if answer.code in REFUSED:
                proof = Reason.PROOF_MISSING if not jws else Reason.PROOF_INVALID
                raise FailedPrecondition(answer.message, reason=proof, field="approval")
            raise Unavailable(
                f"web5 cannot verify the approval now: {answer}",
                reason=Reason.PEER_UNAVAILABLE,
                retry_after=answer.retry_after or None,
            )
        verified = web5.VerifyApprovalResponse.FromString(answer)
        return verified.approver, verified.approves


def signer(approval: str) -> str:
    """Who signed an approval that was verified, now or when this body was first sent: a DID."""
    return str(jose.parse(approval).header["kid"]).partition("#")[0]


def _asking(state: RunState, path: str) -> StepState:
    if state.finished:
        raise FailedPrecondition(
            f"run {state.run_id} has ended, as {state.status}",
            reason=Reason.RUN_ENDED,
            field="run_id",
        )
    step = state.steps.get(path)
    if step is None:
        raise NotFound(f"run {state.run_id} has no step {path!r} so far", field="step")
    if step.phase is not Phase.AWAITING_EVENT or "asked" not in step.input:
        raise _not_asked(f"{path} asks nobody to approve anything now")
    return step


def _not_asked(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, reason=Reason.STEP_AWAITS_NO_APPROVAL, field="step")
