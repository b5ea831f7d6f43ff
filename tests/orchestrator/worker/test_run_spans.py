"""The spans of a run: made of its records, with events, and without personal data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from mesh.observability.config import DEFAULT_SAMPLER, GRPC, collector_config
from mesh.observability.span_ids import derive_span_id
from mesh.observability.telemetry import open_traces
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.worker.run_spans import MAX_EVENTS, RunSpans
from tests.mesh.observability.collectors import collecting

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

Entry: TypeAlias = "tuple[RecordKind, str, int, dict[str, Any]]"

RUN, WORKFLOW = "0af7", "example"
SAMPLED = f"00-{'0af7651916cd43dd8448eb211c80319c'}-b7ad6b7169203331-01"
PERSON = "did:key:ada"
ERROR = {"code": "UNAVAILABLE", "reason": "", "message": f"{PERSON} is away"}
CALL = {"method": "/anya.test.v1.Test/Do", "service": "bitcoin"}
REDRIVEN = {"reason": PERSON, "requester": PERSON, "previous_status": "FAILED", "restart": ["pay"]}


START: Entry = (RecordKind.START, "", 0, {})
FINISH: Entry = (RecordKind.FINISH, "", 0, {"status": "SUCCEEDED", "reason": PERSON})


def journal(*entries: Entry) -> list[Record]:
    """Returns records a millisecond apart, from 1 ms on."""
    return [
        Record.write(number, kind, path, attempt, number * 1000, payload)
        for number, (kind, path, attempt, payload) in enumerate(entries, 1)
    ]


def exported(
    records: list[Record], *, again: bool = False, sampler: str = DEFAULT_SAMPLER
) -> list[Span]:
    """Returns the spans that these records make, in order of their end."""
    with collecting(GRPC) as collector:
        config = replace(collector_config(collector.endpoint), sampler=sampler)
        traces = open_traces("orchestrator", config)
        RunSpans(traces.span_sink, RUN, WORKFLOW, SAMPLED).observe(records, again=again)
        traces.close()
    return collector.spans


def events(span: Span) -> list[tuple[str, int, dict[str, Any]]]:
    """Returns name, time in milliseconds and attributes of each event of the span."""
    return [
        (
            event.name,
            event.time_unix_nano // 1_000_000,
            {pair.key: value_of(pair.value) for pair in event.attributes},
        )
        for event in span.events
    ]


def value_of(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def test_what_a_run_receives_is_an_event_of_its_span() -> None:
    [span] = exported(
        journal(
            START,
            (RecordKind.SIGNAL, "", 0, {"name": "go", "payload": {"a": PERSON}}),
            (RecordKind.EVENT, "", 0, {"type": "order.paid", "subject": PERSON, "data": {}}),
            (RecordKind.APPROVAL, "", 0, {"step": "ask", "approver": PERSON, "approved": True}),
            (RecordKind.CANCEL_RUN, "", 0, {"reason": PERSON, "requester": PERSON}),
            (RecordKind.STEP_HANDLED, "pay", 1, {}),
            FINISH,
        )
    )

    assert span.name == "run example"
    assert events(span) == [
        ("signal.received", 2, {"signal.name": "go"}),
        ("event.received", 3, {"event.type": "order.paid"}),
        ("decision.received", 4, {"step.path": "ask", "decision.approved": True}),
        ("cancel.requested", 5, {}),
        ("step.handled", 6, {"step.path": "pay"}),
    ]
    assert PERSON not in str(span)


def test_retry_is_an_event_of_the_attempt_that_failed() -> None:
    first, last, run = exported(
        journal(
            START,
            (RecordKind.STEP_INTENT, "pay", 1, CALL),
            (RecordKind.STEP_FAILED, "pay", 1, {"error": ERROR, "retry_us": 53_000}),
            (RecordKind.STEP_ATTEMPT, "pay", 2, {"cause": "retried"}),
            (RecordKind.STEP_FAILED, "pay", 2, {"error": ERROR}),
            FINISH,
        )
    )

    assert events(first) == [("retry", 3, {"retry.delay_ms": 50, "error.type": "UNAVAILABLE"})]
    assert events(last) == events(run) == []
    assert [value_of(pair.value) for pair in first.attributes if pair.key == "error.type"] == [
        "UNAVAILABLE"
    ]
    assert PERSON not in f"{first} {last} {run}"


def test_open_circuit_is_an_event_of_the_run() -> None:
    step, run = exported(
        journal(
            START,
            (RecordKind.STEP_INTENT, "pay", 1, CALL),
            (RecordKind.STEP_CIRCUIT_OPEN, "pay", 1, {"error": ERROR, "until_us": 9}),
            (RecordKind.STEP_ATTEMPT, "pay", 1, {"cause": "circuit_closed"}),
            (RecordKind.STEP_DONE, "pay", 1, {}),
            FINISH,
        )
    )

    opened = {"step.path": "pay", "error.type": "UNAVAILABLE"}
    assert events(run) == [("circuit_breaker.open", 3, opened)]
    assert events(step) == []
    assert PERSON not in f"{step} {run}"


@pytest.mark.parametrize("again", [False, True])
def test_events_after_a_redrive_belong_to_its_span(again: bool) -> None:
    run, redrive = exported(
        journal(
            START,
            (RecordKind.SIGNAL, "", 0, {"name": "before"}),
            FINISH,
            (RecordKind.REDRIVEN, "", 0, REDRIVEN),
            (RecordKind.SIGNAL, "", 0, {"name": "after"}),
            FINISH,
        ),
        again=again,
    )

    assert redrive.parent_span_id == run.span_id == derive_span_id(RUN).to_bytes(8, "big")
    assert events(run) == [("signal.received", 2, {"signal.name": "before"})]
    assert events(redrive) == [
        ("redrive", 4, {"redrive.number": 1, "run.status": "FAILED"}),
        ("signal.received", 5, {"signal.name": "after"}),
    ]
    assert PERSON not in f"{run} {redrive}"


def test_redrive_has_an_id_of_its_own_beside_a_step_of_that_name() -> None:
    step: Entry = (RecordKind.STEP_INTENT, "redrive", 1, CALL)
    failed: Entry = (RecordKind.STEP_FAILED, "redrive", 1, {"error": ERROR})
    spans = exported(
        journal(
            *(START, step, failed, FINISH),
            (RecordKind.REDRIVEN, "", 0, {**REDRIVEN, "restart": ["redrive"]}),
            *(step, failed, FINISH),
        )
    )

    assert len({span.span_id for span in spans}) == len(spans) == 4


def test_span_has_a_bounded_number_of_events() -> None:
    signals = [(RecordKind.SIGNAL, "", 0, {"name": f"{n}"}) for n in range(MAX_EVENTS + 5)]

    [span] = exported(journal(START, *signals, FINISH))

    assert len(span.events) == MAX_EVENTS
    assert span.dropped_events_count == 5


@pytest.mark.parametrize(("sampler", "spans"), [("always_off", 0), ("parentbased_always_off", 1)])
def test_sampler_of_the_process_decides_whether_a_sampled_run_is_recorded(
    sampler: str, spans: int
) -> None:
    assert len(exported(journal(START, FINISH), sampler=sampler)) == spans
