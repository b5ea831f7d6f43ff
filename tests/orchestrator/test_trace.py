"""The trace of a run: below the caller's span, with every step and call, without personal data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from cli.spans import store
from cli.spans.receiver import receiving
from services.orchestrator.__main__ import orchestrator
from tests.orchestrator.conftest import connect, start_traced, traces_to
from tests.orchestrator.fake_services import serve_peers
from tests.orchestrator.payment_requests import INPUT, finished, payment, status
from tests.orchestrator.signals import AWAITS_SIGNAL, signal_request, start_run

if TYPE_CHECKING:
    from pathlib import Path

    from cli.spans.span import ReceivedSpan
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig
    from tests.orchestrator.fake_services import FakeServices


async def test_payment_is_one_trace_through_all_services(
    authority: Authority,
    config: OrchestratorConfig,
    collector: str,
    tmp_path: Path,
    fakes: FakeServices,
) -> None:
    request = payment()
    home = tmp_path / "traced"
    async with serve_peers(authority, home, fakes, traces=traces_to(collector)) as peers:
        mesh = replace(config.mesh, peers=peers, traces=traces_to(collector))
        async with (
            orchestrator(replace(config, mesh=mesh)) as service,
            connect(authority, service.port) as workflows,
        ):
            await start_traced(authority, service.port, collector, request)
            run = await finished(workflows, request.request_id)

    traced = store.load(tmp_path / "traces.db", run.trace_id)
    spans = {span.span_id: span for span in traced.spans}
    assert traced.is_whole
    assert traced.services == ["bitcoin", "client", "ml", "orchestrator", "web5"]
    assert traced.roots[0].name == "anya.orchestrator.v1.WorkflowService/StartRun"
    (run_span,) = (span for span in traced.spans if span.name == "run verified_payment")
    assert run_span.parent_id == traced.roots[0].span_id
    served = next(
        span
        for span in traced.spans
        if span.name.endswith("ExtractPaymentFeatures") and span.service == "bitcoin"
    )
    assert line_of(served, spans) == [
        "anya.bitcoin.v1.AnalysisService/ExtractPaymentFeatures",
        "anya.bitcoin.v1.AnalysisService/ExtractPaymentFeatures",
        "fraud_assessment/payment",
        "fraud_assessment",
        "run verified_payment",
        "anya.orchestrator.v1.WorkflowService/StartRun",
    ]
    step = next(span for span in traced.spans if span.name == "execute_payment")
    assert step.attributes == {
        "workflow.id": "verified_payment",
        "run.id": request.request_id,
        "step.path": "execute_payment",
        "attempt": 1,
    }
    attributes = json.dumps([span.attributes for span in traced.spans])
    assert not [value for value in INPUT.values() if str(value) in attributes]


async def test_payment_of_an_unsampled_caller_is_traced(
    authority: Authority, config: OrchestratorConfig, collector: str, tmp_path: Path
) -> None:
    request = payment()
    mesh = replace(config.mesh, traces=traces_to(collector))
    async with (
        orchestrator(replace(config, mesh=mesh)) as service,
        connect(authority, service.port) as workflows,
    ):
        await start_traced(authority, service.port, collector, request, sampler="always_off")
        run = await finished(workflows, request.request_id)

    traced = store.load(tmp_path / "traces.db", run.trace_id)
    assert traced.is_whole
    assert [root.name for root in traced.roots] == ["run verified_payment"]


async def test_payment_is_made_untraced_if_the_sdk_is_disabled(
    authority: Authority, config: OrchestratorConfig, collector: str, tmp_path: Path
) -> None:
    request = payment()
    mesh = replace(config.mesh, traces=replace(traces_to(collector), disabled=True))
    async with (
        orchestrator(replace(config, mesh=mesh)) as service,
        connect(authority, service.port) as workflows,
    ):
        await start_traced(authority, service.port, collector, request)
        run = await finished(workflows, request.request_id)

    assert status(run) == "SUCCEEDED"
    traced = store.load(tmp_path / "traces.db", run.trace_id)
    assert [span.service for span in traced.spans] == ["client"]


async def test_exported_spans_are_not_exported_again_by_the_next_process(
    authority: Authority, config: OrchestratorConfig, collector: str, tmp_path: Path
) -> None:
    request, later = payment(), tmp_path / "later.db"
    traced = replace(config, mesh=replace(config.mesh, traces=traces_to(collector)))
    async with (
        orchestrator(traced) as service,
        connect(authority, service.port) as workflows,
    ):
        await start_traced(authority, service.port, collector, request)
        run = await finished(workflows, request.request_id)

    async with (
        receiving(later) as other,
        orchestrator(replace(config, mesh=replace(config.mesh, traces=traces_to(other)))),
    ):
        pass

    assert store.load(tmp_path / "traces.db", run.trace_id).spans
    assert not store.load(later, run.trace_id).spans


async def test_signal_of_a_run_is_an_event_of_its_span(
    authority: Authority, config: OrchestratorConfig, collector: str, tmp_path: Path
) -> None:
    mesh = replace(config.mesh, traces=traces_to(collector))
    async with (
        orchestrator(replace(config, mesh=mesh)) as service,
        connect(authority, service.port) as workflows,
    ):
        run_id = await start_run(workflows, AWAITS_SIGNAL)
        await workflows.SignalRun(signal_request(run_id), timeout=5)
        run = await finished(workflows, run_id)

    traced = store.load(tmp_path / "traces.db", run.trace_id)
    [span] = traced.roots
    [event] = span.events
    assert (event.name, event.attributes) == ("signal.received", {"signal.name": "approved"})
    assert span.start_ns <= event.time_ns <= span.end_ns


def line_of(span: ReceivedSpan, spans: dict[str, ReceivedSpan]) -> list[str]:
    """Returns the names of the spans from this one up to the root."""
    names = [span.name]
    while span.parent_id:
        span = spans[span.parent_id]
        names.append(span.name)
    return names
