"""Runs shown to a caller whose boundary permits no personal data."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.trace import NoOpTracer

from anya.orchestrator.v1 import payment_pb2
from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceStub
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import TRUST_FILE
from mesh.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules
from mesh.testing import eventually
from services.orchestrator.__main__ import orchestrator
from services.orchestrator.definition import values
from tests.orchestrator.conftest import connect, start_traced, traces_to
from tests.orchestrator.payment_requests import finished, pay, payment, status, uuid7

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anya.orchestrator.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices

VIEWER = "spiffe://anya.internal/client/viewer"
# In the fields that hold personal data: the key of a DID, and two addresses.
PERSON = "z6MkvqoYXQfDDJRv8L4wKzxYeuKyVZBfi9Qo6Ro8MiLH3kDQ"
SENDER = "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk"
RECIPIENT = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
LINKED = "bcrt1sender"  # an address in a reply of web5
AMOUNT_SAT = 4_321_987  # personal data, too

BOUNDARY = """
  - from: viewer
    to: orchestrator
    max_class: internal
    methods:
      anya.orchestrator.v1.WorkflowService/GetRun: {}
      anya.orchestrator.v1.WorkflowService/ListRuns: {}
      anya.orchestrator.v1.WorkflowService/WatchRun: {}
      anya.orchestrator.v1.WorkflowService/CancelRun: {}
      anya.orchestrator.v1.PaymentService/GetPayment: {}
      anya.orchestrator.v1.PaymentService/WatchPayment: {}
"""


@dataclass(frozen=True, slots=True)
class Both:
    """Channels of an operator and of a viewer without personal data, to one service."""

    operator: WorkflowServiceAsyncStub
    viewer: WorkflowServiceAsyncStub
    payments: PaymentServiceAsyncStub  # the viewer's
    port: int


@pytest.fixture
def trusting(config: OrchestratorConfig, tmp_path: Path) -> OrchestratorConfig:
    principal = f'  client: ["spiffe://anya.internal/client/operator"]\n  viewer: ["{VIEWER}"]\n'
    text = TRUST_FILE.read_text(encoding="utf-8")
    extended = text.replace('  client: ["spiffe://anya.internal/client/operator"]\n', principal)
    trust = tmp_path / "trust.yaml"
    trust.write_text(extended + BOUNDARY, encoding="utf-8")
    return replace(config, mesh=replace(config.mesh, trust_file=trust))


@asynccontextmanager
async def seen_by_both(config: OrchestratorConfig, authority: Authority) -> AsyncIterator[Both]:
    rules = ClientRules(
        target="orchestrator", tracer=NoOpTracer(), breakers=Breakers(SystemClock()), timeout=30.0
    )
    async with (
        orchestrator(config) as service,
        connect(authority, service.port) as operator,
        open_channel(f"127.0.0.1:{service.port}", rules, authority.issue(VIEWER)) as channel,
    ):
        viewer = WorkflowServiceStub(channel)
        yield Both(operator, viewer, PaymentServiceStub(channel), service.port)


@pytest.fixture
async def both(trusting: OrchestratorConfig, authority: Authority) -> AsyncIterator[Both]:
    async with seen_by_both(trusting, authority) as both:
        yield both


async def seen(service: Any, run_id: str) -> list[Any]:
    """Returns every reply about the run that one caller can get."""
    watched = pb.WatchRunRequest(run_id=run_id)
    return [
        await service.GetRun(pb.GetRunRequest(run_id=run_id), timeout=5),
        await service.ListRuns(pb.ListRunsRequest(), timeout=5),
        *[update async for update in service.WatchRun(watched, timeout=10)],
    ]


def names_the_person(messages: list[Any]) -> bool:
    texts = [f"{message} {message.SerializeToString()!r}" for message in messages]
    personal = (PERSON, SENDER, RECIPIENT, str(AMOUNT_SAT), LINKED)
    return any(word in text for text in texts for word in personal)


def of_the_person(run_id: str | None = None) -> pb.StartRunRequest:
    """Returns a payment of the person."""
    request = payment(run_id)
    request.presentation = f"vp.{PERSON}"
    request.intent.sender_did = f"did:key:{PERSON}"
    request.intent.sender_address = SENDER
    request.intent.recipient_address = RECIPIENT
    request.intent.amount_sat = AMOUNT_SAT
    given = {
        "sender_did": request.intent.sender_did,
        "sender_address": request.intent.sender_address,
        "recipient_address": request.intent.recipient_address,
        "amount": AMOUNT_SAT,
    }
    values.fill_struct(request.input, given)
    return request


FOUND = {
    "id": "found",
    "protocol": "web5",
    "operation": "extract_identity_features",
    "input_mapping": {
        "did": "{{input.sender_did}}",
        "recipient_address": "{{input.recipient_address}}",
    },
    "output_mapping": {"links": "{{output.links}}", "whole": "{{output}}"},
}
KEPT = {
    "id": "kept",
    "set": {
        "list": ["{{input.sender_did}}"],
        "text": "it is {{input.sender_did}}",
        "inner": {"did": "{{input.sender_did}}"},
        "free": "{{input.free}}",
    },
}


def judging(condition: str) -> str:
    """Returns a workflow that pays if the condition is true."""
    waits = {
        "id": "waits",
        "wait_for": {"signal": "word", "correlation": "{{input.topic}}", "timeout": "1ms"},
        "condition": "{{input.amount}} < 0",
    }
    pays = {
        "id": "pays",
        "protocol": "bitcoin",
        "operation": "send_transaction",
        "input_mapping": {
            "from_address": "{{input.sender_address}}",
            "to_address": "{{input.recipient_address}}",
            "amount": "{{input.amount}}",
        },
        "output_mapping": {},
        "condition": condition,
    }
    document = {"id": "example", "name": "example", "steps": [FOUND, KEPT, waits, pays]}
    return json.dumps(document)


CONDITIONS = (
    "{{input.sender_did}} == 'unknown'",
    "{{input.free}} == 'unknown'",
    "{{input.topic}} == 'unknown'",
    "{{input.amount}} == 1",
    "{{steps.kept.text}} == 'unknown'",
    "{{steps.kept.list}} == []",
    "{{steps.kept.inner}} == {}",
    "{{steps.kept}} == {}",
    "{{steps.found.whole}} == {}",
    "{{steps.found.links.sender}} == []",
    "{{steps.found.links.sender[0].address}} == 'unknown'",
    "{{steps.found}} == {}",
)


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_operands_with_personal_data_are_not_shown(both: Both, condition: str) -> None:
    definition = pb.RegisterWorkflowRequest(definition=judging(condition))
    await both.operator.RegisterWorkflow(definition, timeout=5)
    request = of_the_person()
    request.workflow_id = "example"
    request.input.update({"free": f"of {PERSON}", "topic": f"of {PERSON}"})

    run = await pay(both.operator, request)

    assert status(run) == "REFUSED"
    assert "condition of pays is false" in run.public_reason
    assert PERSON in str(run.input)
    assert not names_the_person(
        [*await seen(both.viewer, run.run_id), pb.Run(public_reason=run.public_reason)]
    )


async def test_operand_without_personal_data_is_shown(both: Both, fakes: FakeServices) -> None:
    fakes.risk_score = 0.9

    run = await pay(both.operator, of_the_person())

    seen_run = await both.viewer.GetRun(pb.GetRunRequest(run_id=run.run_id), timeout=5)
    assert status(run) == "REFUSED"
    assert seen_run.run.public_reason == run.public_reason == run.reason
    assert "0.9" in run.public_reason
    assert not seen_run.run.reason


async def test_error_message_of_a_peer_is_shown_as_step_and_code(
    both: Both, fakes: FakeServices
) -> None:
    words = f"{SENDER} may not send {AMOUNT_SAT} sat"
    fakes.errors_before["SendPayment"].append(
        FailedPrecondition(words, reason=Reason.PROOF_MISSING)
    )

    run = await pay(both.operator, of_the_person())
    replies = await seen(both.viewer, run.run_id)

    assert run.reason == f"execute_payment: PROOF_MISSING: {words}"
    assert not names_the_person(replies)
    assert replies[0].run.public_reason == "execute_payment: PROOF_MISSING"
    assert [step.error.reason for step in replies[0].run.steps if step.HasField("error")] == [
        "PROOF_MISSING"
    ]


async def test_payment_is_shown_without_parties_and_amount(both: Both, fakes: FakeServices) -> None:
    run = await pay(both.operator, of_the_person())

    got = payment_pb2.GetPaymentRequest(payment_id=run.run_id)
    watched = payment_pb2.WatchPaymentRequest(payment_id=run.run_id)
    replies = [await both.payments.GetPayment(got, timeout=5)]
    updates = [update async for update in both.payments.WatchPayment(watched, timeout=10)]

    assert not names_the_person([*replies, *updates, *await seen(both.viewer, run.run_id)])
    assert replies[0].payment.payment_id == run.run_id
    assert replies[0].payment.fee_sat == 150


async def test_error_holds_no_personal_data(both: Both, fakes: FakeServices) -> None:
    words = f"no wallet of {SENDER}, of {PERSON}"
    fakes.errors_before["GetPayment"].extend([Unavailable(words)] * 20)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await both.payments.GetPayment(
            payment_pb2.GetPaymentRequest(payment_id=uuid7()), timeout=10
        )

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert PERSON not in str(refused.value.details())
    assert PERSON not in repr(refused.value.trailing_metadata())


async def test_texts_of_a_definition_and_of_a_cancel_are_not_shown(both: Both) -> None:
    ends = {"id": "stop", "end": {"outcome": "failed", "reason": "because of {{input.sender_did}}"}}
    waits = {"id": "wait", "wait_for": {"signal": "word"}}
    runs = []
    for step in (ends, waits):
        text = json.dumps({"id": "example", "name": "example", "steps": [step, {**KEPT}]})
        await both.operator.RegisterWorkflow(pb.RegisterWorkflowRequest(definition=text), timeout=5)
        request = pb.StartRunRequest(request_id=uuid7(), workflow_id="example")
        request.input.update({"sender_did": f"did:key:{PERSON}", "free": ""})
        await both.operator.StartRun(request, timeout=5)
        runs.append(request.request_id)
    cancel = pb.CancelRunRequest(request_id="c", run_id=runs[1], reason=f"{PERSON} asked for it")
    await both.operator.CancelRun(cancel, timeout=5)

    ended, cancelled = [await finished(both.operator, run_id) for run_id in runs]

    assert ended.reason == f"because of did:key:{PERSON}"
    assert ended.public_reason == ""
    assert cancelled.reason.endswith(f"{PERSON} asked for it")
    assert cancelled.public_reason == "cancelled by spiffe://anya.internal/client/operator"
    for run_id in runs:
        assert not names_the_person(await seen(both.viewer, run_id))


async def test_spans_of_a_failed_run_hold_no_personal_data(
    trusting: OrchestratorConfig,
    authority: Authority,
    fakes: FakeServices,
    collector: str,
    tmp_path: Path,
) -> None:
    fakes.errors_before["VerifyIdentity"].append(InvalidArgument(f"did:key:{PERSON} is no DID"))
    traced = replace(trusting, mesh=replace(trusting.mesh, traces=traces_to(collector)))
    request = of_the_person()

    async with seen_by_both(traced, authority) as both:
        await start_traced(authority, both.port, collector, request)
        run = await finished(both.operator, request.request_id)

    async def are_there() -> bool:
        return b"run verified_payment" in await asyncio.to_thread(_bytes_of, tmp_path)

    await eventually(are_there)
    assert PERSON in run.reason
    assert PERSON.encode() not in _bytes_of(tmp_path)


def _bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("traces.db*")))
