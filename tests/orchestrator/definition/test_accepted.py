"""Accepted definitions pass the check and the schema, in YAML and JSON, and run to their end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from anya.orchestrator.v1 import workflow_pb2 as pb
from services.orchestrator import definition
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from services.orchestrator.definition.schema import schema
from tests.orchestrator.conftest import connect
from tests.orchestrator.definition.cases import INNER, accepted, known
from tests.orchestrator.payment_requests import status, uuid7

if TYPE_CHECKING:
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

KNOWN = known()
VALIDATOR = jsonschema_rs.validator_for(schema())
TEXTS = [text for text, *_ in accepted()]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_definition_is_accepted_by_check_and_schema_in_yaml_and_json(text: str) -> None:
    document = definition.read(text).value
    as_json = json.dumps(document, indent=1)

    assert definition.check(text, KNOWN) == []
    VALIDATOR.validate(document)
    assert definition.load(as_json, KNOWN).hash == definition.load(text, KNOWN).hash


async def test_every_accepted_definition_runs_to_its_end(
    location: str, config: OrchestratorConfig, authority: Authority
) -> None:
    ends = []

    async with (
        orchestrator(replace(config, database=location)) as service,
        connect(authority, service.port) as workflows,
    ):
        for text in INNER:
            await register(workflows, text)
        for text, _, given in accepted():
            id = await register(workflows, text)
            ends.append(await run(workflows, id, given))

    wrong = {
        text: end
        for (text, said, _), end in zip(accepted(), ends, strict=True)
        if end.split()[0] != said
    }
    assert wrong == {}


async def register(workflows: WorkflowServiceAsyncStub, text: str) -> str:
    request = pb.RegisterWorkflowRequest(definition=text)
    return (await workflows.RegisterWorkflow(request, timeout=20)).workflow.workflow_id


async def run(workflows: WorkflowServiceAsyncStub, id: str, given: dict[str, Any]) -> str:
    """Runs a workflow; returns how the run ended, and why."""
    request = pb.StartRunRequest(request_id=uuid7(), workflow_id=id)
    values.fill_struct(request.input, given)
    request.wait.FromSeconds(20)
    ended = (await workflows.StartRun(request, timeout=25)).run
    return f"{status(ended)} {ended.reason}"
