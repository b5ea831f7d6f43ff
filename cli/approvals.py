"""Approvals: shows what a run asks for, and signs the decision of an approver."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

import rfc8785

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from cli import runs
from cli.errors import CommandError
from services.orchestrator.definition import values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cli.connection import Channels
    from cli.identities import Identity


async def decide(
    channels: Channels,
    run_id: str,
    path: str,
    identities: Sequence[Identity],
    *,
    approved: bool,
    say: Callable[[str], None] | None = None,
) -> pb.ApproveRunResponse:
    """Signs the step's question as the approver among ``identities``, and sends the decision."""
    run = await runs.get(channels, run_id)
    asked = next((s.approval for s in run.steps if s.path == path and s.HasField("approval")), None)
    if asked is None:
        raise CommandError(
            f"{path} of run {run_id} asks for no approval", reason="STEP_AWAITS_NO_APPROVAL"
        )
    _must_be_what_is_shown(asked)
    if say:
        for line in runs.approval_lines(asked):
            say(line)
    identity = _approver(asked, identities)
    signed = identity.holder.approve(
        run_id=run_id, step=path, digest=asked.digest, approved=approved
    )
    request = pb.ApproveRunRequest(
        request_id=str(uuid.uuid4()), run_id=run_id, step=path, approval=signed
    )
    return await WorkflowServiceStub(channels["orchestrator"]).ApproveRun(request)


def _must_be_what_is_shown(asked: pb.Approval) -> None:
    """Raises CommandError unless the digest is that of the question shown."""
    shown = rfc8785.dumps(values.from_struct(asked.asked))
    if hashlib.sha256(shown).digest() != asked.digest:
        raise CommandError("the digest is not that of what is asked: nothing was signed")


def _approver(asked: pb.Approval, identities: Sequence[Identity]) -> Identity:
    decided = {decision.approver for decision in asked.decisions}
    open_ = [one for one in identities if one.did in asked.approvers and one.did not in decided]
    if len(open_) == 1:
        return open_[0]
    names = ", ".join(one.name for one in open_)
    raise CommandError(
        f"several of your identities may decide: {names}"
        if open_
        else "none of your identities is asked, or all that are have decided",
        reason="APPROVER_UNKNOWN",
        remedy="name one with --as" if open_ else "",
    )
