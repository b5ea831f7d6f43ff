"""Approvals over gRPC: signed by the approvers, verified, counted once each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli import approvals, runs
from cli.errors import CommandError
from cli.identities import Identity
from cli.wallet_holder import Holder
from mesh.errors import Unavailable
from mesh.testing import eventually, reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.store.messages import Messages
from tests.orchestrator.conftest import connect
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.erasures import stored
from tests.orchestrator.payment_requests import finished, status, uuid7
from tests.orchestrator.signals import await_status, start_run

if TYPE_CHECKING:
    from pathlib import Path

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.data.idempotency import IdempotencyKey
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

ADA, BOB, CY, EVE = (Holder.generate() for _ in range(4))
ASK = steps(
    f'agree\n    approval: {{approvers: ["{ADA.did}", "{BOB.did}"], quorum: 2,'
    ' text: "Pay {{input.amount}}?", values: {amount: "{{input.amount}}"}, timeout: 1m}'
)


async def asked(workflows: WorkflowServiceAsyncStub, run_id: str) -> pb.Approval:
    run = (await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)).run
    return run.steps[0].approval


async def begin_asking(workflows: WorkflowServiceAsyncStub) -> str:
    run_id = await start_run(workflows, ASK, amount="5")
    await await_status(workflows, run_id, "WAITING")
    return run_id


async def decide(
    workflows: WorkflowServiceAsyncStub,
    run_id: str,
    holder: Holder,
    *,
    approved: bool = True,
    digest: bytes = b"",
) -> pb.ApproveRunResponse:
    """Signs and sends an approval, and waits until it counts."""
    digest = digest or (await asked(workflows, run_id)).digest
    signed = holder.approve(run_id=run_id, step="agree", digest=digest, approved=approved)
    request = pb.ApproveRunRequest(request_id=uuid7(), run_id=run_id, step="agree", approval=signed)
    reply = await workflows.ApproveRun(request, timeout=5)

    async def counted() -> bool:
        return any(d.approver == holder.did for d in (await asked(workflows, run_id)).decisions)

    await eventually(counted)
    return reply


async def test_run_continues_with_the_signed_decisions_once_its_quorum_approves(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await begin_asking(workflows)
    await decide(workflows, run_id, ADA)
    await decide(workflows, run_id, BOB)

    run = await finished(workflows, run_id)

    assert status(run) == "SUCCEEDED"
    decisions = run.steps[0].approval.decisions
    assert [decision.approver for decision in decisions] == [ADA.did, BOB.did]
    assert all(decision.approval.count(".") == 2 for decision in decisions)


async def test_rejection_that_makes_the_quorum_impossible_ends_the_run(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await begin_asking(workflows)

    reply = await decide(workflows, run_id, BOB, approved=False)

    run = await finished(workflows, run_id)
    assert (reply.approver, reply.approved) == (BOB.did, False)
    assert (reply.run.run_id, len(reply.run.steps)) == (run_id, 0)
    assert status(run) == "FAILED"
    assert run.steps[0].error.reason == "APPROVAL_REJECTED"


async def test_approval_by_a_did_that_is_no_approver_is_refused(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await begin_asking(workflows)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await decide(workflows, run_id, EVE)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert len((await asked(workflows, run_id)).decisions) == 0


async def test_approval_signed_for_another_run_is_refused(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    one, other = await begin_asking(workflows), await begin_asking(workflows)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await decide(workflows, other, ADA, digest=(await asked(workflows, one)).digest)

    assert reason(refused.value) == "PROOF_INVALID"


async def test_repeated_approval_counts_once(workflows: WorkflowServiceAsyncStub) -> None:
    run_id = await begin_asking(workflows)
    digest = (await asked(workflows, run_id)).digest
    signed = ADA.approve(run_id=run_id, step="agree", digest=digest, approved=True)
    request = pb.ApproveRunRequest(request_id="a", run_id=run_id, step="agree", approval=signed)

    replies = [await workflows.ApproveRun(request, timeout=5) for _ in range(2)]

    decisions = [(reply.approver, reply.approved, reply.run.run_id) for reply in replies]
    assert decisions == [(ADA.did, True, run_id)] * 2


async def test_attempt_that_is_served_beside_the_first_gets_the_first_reply(
    workflows: WorkflowServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await begin_asking(workflows)
    digest = (await asked(workflows, run_id)).digest
    signed = ADA.approve(run_id=run_id, step="agree", digest=digest, approved=True)
    request = pb.ApproveRunRequest(request_id="a", run_id=run_id, step="agree", approval=signed)
    first = await workflows.ApproveRun(request, timeout=5)
    read, reads = Messages.first_reply, 0

    async def read_too_early(messages: Messages, key: IdempotencyKey) -> bytes | None:
        nonlocal reads
        reads += 1
        return None if reads == 1 else await read(messages, key)

    monkeypatch.setattr(Messages, "first_reply", read_too_early)

    again = await workflows.ApproveRun(request, timeout=5)

    assert (again.approver, again.approved) == (first.approver, first.approved) == (ADA.did, True)


async def test_second_decision_of_an_approver_is_refused(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await begin_asking(workflows)
    await decide(workflows, run_id, ADA)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await decide(workflows, run_id, ADA, approved=False)

    assert reason(refused.value) == "STEP_AWAITS_NO_APPROVAL"


async def test_approval_is_not_stored_while_web5_cannot_verify_it(
    workflows: WorkflowServiceAsyncStub, fakes: FakeServices
) -> None:
    run_id = await begin_asking(workflows)
    fakes.errors_before["VerifyApproval"] += [Unavailable("gone")] * 9

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await decide(workflows, run_id, ADA)

    assert reason(refused.value) == "PEER_UNAVAILABLE"
    assert len((await asked(workflows, run_id)).decisions) == 0


@pytest.mark.parametrize(
    ("step", "why"), [("agree", "NOT_FOUND"), ("note", "STEP_AWAITS_NO_APPROVAL")]
)
async def test_step_that_awaits_no_approval_cannot_be_approved(
    workflows: WorkflowServiceAsyncStub, step: str, why: str
) -> None:
    text = steps("note\n    set: {a: 1}", "answer\n    wait_for: {signal: approved}")
    run_id = await start_run(workflows, text)
    await await_status(workflows, run_id, "WAITING")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await workflows.ApproveRun(
            pb.ApproveRunRequest(request_id="a", run_id=run_id, step=step, approval="x"), timeout=5
        )

    assert reason(refused.value) == why


async def test_decisions_survive_a_restart(
    authority: Authority, config: OrchestratorConfig
) -> None:
    async with orchestrator(config) as service, connect(authority, service.port) as workflows:
        run_id = await begin_asking(workflows)
        await decide(workflows, run_id, ADA)

    async with orchestrator(config) as service, connect(authority, service.port) as workflows:
        await decide(workflows, run_id, BOB)
        assert status(await finished(workflows, run_id)) == "SUCCEEDED"


async def test_erased_run_leaves_nothing_of_an_approver_in_the_file(
    authority: Authority, config: OrchestratorConfig, tmp_path: Path
) -> None:
    text = steps(
        'agree\n    approval: {approvers: ["{{input.who}}"], quorum: 1, text: "Pay?", timeout: 1m}'
    )
    async with orchestrator(config) as service, connect(authority, service.port) as workflows:
        run_id = await start_run(workflows, text, who=CY.did)
        await await_status(workflows, run_id, "WAITING")
        digest = (await asked(workflows, run_id)).digest
        signed = CY.approve(run_id=run_id, step="agree", digest=digest, approved=True)
        request = pb.ApproveRunRequest(request_id="a", run_id=run_id, step="agree", approval=signed)
        await workflows.ApproveRun(request, timeout=5)
        await finished(workflows, run_id)
    before = stored(tmp_path)

    async with orchestrator(config) as service, connect(authority, service.port) as workflows:
        await workflows.EraseRun(pb.EraseRunRequest(request_id="e", run_id=run_id), timeout=10)
        again = await workflows.ApproveRun(request, timeout=5)
    after = stored(tmp_path)

    assert all(word.encode() in before for word in (CY.did, signed))
    assert not any(word.encode() in after for word in (CY.did, signed))
    assert (again.approver, again.approved) == (CY.did, True)
    assert again.run.HasField("erase_time")


async def test_client_shows_an_approver_the_request_before_signing(
    channel: grpc.aio.Channel, workflows: WorkflowServiceAsyncStub
) -> None:
    run_id = await begin_asking(workflows)
    channels: Any = {"orchestrator": channel}
    mine = [Identity("ada", ADA), Identity("eve", EVE)]
    said: list[str] = []

    reply = await approvals.decide(channels, run_id, "agree", mine, approved=True, say=said.append)

    assert (reply.approver, reply.approved) == (ADA.did, True)
    assert "asks: Pay 5?" in said
    with pytest.raises(CommandError, match="none of your identities is asked"):
        await approvals.decide(channels, run_id, "agree", mine[1:], approved=True)
    with pytest.raises(CommandError, match="asks for no approval"):
        await approvals.decide(channels, run_id, "agreed", mine, approved=True)


async def test_run_shows_the_requested_approval_and_its_decisions(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    run_id = await begin_asking(workflows)
    await decide(workflows, run_id, ADA)

    run = (await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5)).run

    shown = "\n".join(runs.lines(run))
    assert "asks: Pay 5?" in shown
    assert "2 of 2 must approve until" in shown
    assert f"✓ {ADA.did} approved" in shown
    assert f"… {BOB.did}" in shown
