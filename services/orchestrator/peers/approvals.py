"""Approvals of steps: verified by web5, then sent to the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from anya.web5.v1 import identity_pb2 as web5
from formats import jose
from mesh.errors import (
    FailedPrecondition,
    MeshError,
    NotFound,
    PermissionDenied,
    Reason,
    Unavailable,
)
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
REFUSED = ("FAILED_PRECONDITION", "INVALID_ARGUMENT")  # web5 has verified it, and it is invalid

Reply: TypeAlias = "Callable[[DecisionReceived], bytes]"


class Approvals:
    """Verifies approvals at web5 and sends them to their runs."""

    def __init__(self, store: RunStore, worker: Worker, peers: Peers) -> None:
        self._store = store
        self._worker = worker
        self._peers = peers

    async def approve(
        self, key: IdempotencyKey, run_id: str, path: str, jws: str, reply: Reply
    ) -> bytes:
        """Sends a signed decision to the step at ``path``, once per ``key``.

        Returns the first reply. Raises NotFound, FailedPrecondition, PermissionDenied or
        Unavailable, as the contract of ApproveRun defines.
        """
        first = await self._store.messages.first_reply(key)
        if first is not None:
            return first
        try:
            decision = await self._decision(run_id, path, jws)
        except MeshError:
            # An attempt that is served at the same time may have been stored since.
            first = await self._store.messages.first_reply(key)
            if first is None:
                raise
            return first
        return await self._worker.inbox.send(key, run_id, decision, reply(decision))

    async def _decision(self, run_id: str, path: str, jws: str) -> DecisionReceived:
        step = _waiting_step((await self._store.load(run_id)).state, path)
        digest = str(step.input["digest"])
        approver, approved = await self._verify(run_id, path, digest, jws)
        if approver not in step.input["asked"]["approvers"]:
            raise PermissionDenied(
                f"{approver} is not among the approvers of {path}",
                reason=Reason.PERMISSION_NOT_GRANTED,
            )
        if approver in step.decisions:
            raise _not_asked(f"{approver} has already decided on {path}")
        return DecisionReceived(path, approver, approved, digest, jws)

    async def _verify(self, run_id: str, path: str, digest: str, jws: str) -> tuple[str, bool]:
        request = web5.VerifyApprovalRequest(
            approval=jws, run_id=run_id, step=path, digest=bytes.fromhex(digest)
        )
        reply = await self._peers.call(SERVICE, VERIFY, request.SerializeToString())
        if isinstance(reply, StepError):
            if reply.code in REFUSED:
                proof = Reason.PROOF_MISSING if not jws else Reason.PROOF_INVALID
                raise FailedPrecondition(reply.message, reason=proof, field="approval")
            raise Unavailable(
                f"web5 cannot verify the approval now: {reply}",
                reason=Reason.PEER_UNAVAILABLE,
                retry_after=reply.retry_after_s or None,
            )
        verified = web5.VerifyApprovalResponse.FromString(reply)
        return verified.approver, verified.approved


def signer(approval: str) -> str:
    """Returns the DID that signed an approval, which must have been verified before."""
    return str(jose.parse(approval).header["kid"]).partition("#")[0]


def _waiting_step(state: RunState, path: str) -> StepState:
    if state.finished:
        raise FailedPrecondition(
            f"run {state.run_id} has ended with status {state.status}",
            reason=Reason.RUN_ENDED,
            field="run_id",
        )
    step = state.steps.get(path)
    if step is None:
        raise NotFound(f"run {state.run_id} has no step {path!r} yet", field="step")
    if step.phase is not Phase.AWAITING_EVENT or "asked" not in step.input:
        raise _not_asked(f"{path} does not wait for an approval now")
    return step


def _not_asked(message: str) -> FailedPrecondition:
    return FailedPrecondition(message, reason=Reason.STEP_AWAITS_NO_APPROVAL, field="step")
