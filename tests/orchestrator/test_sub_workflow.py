"""Sub-workflows over gRPC: found, pinned, and refused where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import reason
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from tests.orchestrator.conftest import connect
from tests.orchestrator.payment_requests import finished, status, statuses, uuid7

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

INNER = """
id: inner
name: inner
steps:
  - id: asked
    wait_for: {signal: go}
  - id: result
    set: {word: WORD, of: "{{input.number}}"}
"""
OUTER = """
id: outer
name: outer
steps:
  - id: sub
    workflow: inner
    input_mapping: {number: "{{input.number}}"}
    output_mapping: {word: "{{output.word}}", of: "{{output.of}}"}
  - id: last
    set: {text: "{{steps.sub.word}} {{steps.sub.of}}"}
"""


@pytest.fixture(params=["local", "shared"])
def stored(request: pytest.FixtureRequest, config: OrchestratorConfig) -> OrchestratorConfig:
    """Configuration of an orchestrator on SQLite or PostgreSQL."""
    if request.param == "local":
        return config
    return replace(config, database=request.getfixturevalue("new_postgres_database"))


async def register(workflows: WorkflowServiceAsyncStub, text: str) -> None:
    await workflows.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)


async def start(workflows: WorkflowServiceAsyncStub) -> str:
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id="outer")
    request.input.update({"number": 7})
    await workflows.StartRun(request, timeout=5)
    return request.request_id


async def go(workflows: WorkflowServiceAsyncStub, run_id: str) -> pb.Run:
    signal = pb.SignalRunRequest(request_id=uuid7(), run_id=run_id, signal="go")
    await workflows.SignalRun(signal, timeout=5)
    return await finished(workflows, run_id)


async def test_run_keeps_its_sub_workflow_and_the_next_run_has_the_newest(
    authority: Authority, stored: OrchestratorConfig
) -> None:
    async with (
        orchestrator(stored) as service,
        connect(authority, service.port) as workflows,
    ):
        await register(workflows, INNER.replace("WORD", "old"))
        await register(workflows, OUTER)
        run_id = await start(workflows)
        await register(workflows, INNER.replace("WORD", "new"))

    async with (
        orchestrator(stored) as service,
        connect(authority, service.port) as workflows,
    ):
        older = await go(workflows, run_id)
        newer = await go(workflows, await start(workflows))

    assert statuses(older) == dict.fromkeys(["sub", "sub/asked", "sub/result", "last"], "SUCCEEDED")
    texts = [values.from_struct(run.steps[-1].output)["text"] for run in (older, newer)]
    assert texts == ["old 7", "new 7"]


async def test_incompatible_sub_workflow_prevents_new_runs(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    await register(workflows, INNER)
    await register(workflows, OUTER)
    await register(workflows, INNER.replace("word: WORD", "words: []"))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await start(workflows)

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refused.value) == "DEFINITION_INVALID"
    assert "it has no 'word'" in (refused.value.details() or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OUTER.replace("workflow: inner", "workflow: inne"), "6:15: unknown workflow 'inne'"),
        (OUTER.replace("workflow: inner", "workflow: outer"), "outer cannot run inside itself"),
        (
            OUTER.replace("id: outer", "id: inner").replace("workflow: inner", "workflow: outer"),
            "inner cannot run inside itself, by way of outer",
        ),
        (
            OUTER.replace("workflow: inner", "workflow: verified_payment"),
            "verified_payment pays: it cannot run inside another workflow",
        ),
        (OUTER.replace("output.word", "output.wort"), "it has no 'wort'; it has word, of"),
        (OUTER.replace("{number: ", "{numbers: "), "unknown field 'numbers'; known: number"),
    ],
)
async def test_invalid_sub_workflow_is_refused_with_its_position(
    workflows: WorkflowServiceAsyncStub, text: str, message: str
) -> None:
    await register(workflows, INNER)
    await register(workflows, OUTER)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await register(workflows, text)

    assert reason(refused.value) == "DEFINITION_INVALID"
    assert message in (refused.value.details() or "")


async def test_built_in_workflow_runs_as_a_sub_workflow(
    workflows: WorkflowServiceAsyncStub,
) -> None:
    text = """
id: outer
name: outer
steps:
  - id: sub
    workflow: assess_fraud_risk
    input_mapping:
      sender_did: d
      recipient_address: r
      amount: "{{input.number}}"
      sender_verification_score: 0.5
    output_mapping: {}
"""
    await register(workflows, text)

    run = await finished(workflows, await start(workflows))

    assert status(run) == "SUCCEEDED"
    assert list(statuses(run)) == ["sub", "sub/identity", "sub/payment", "sub/score"]
