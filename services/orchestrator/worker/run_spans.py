"""The spans of a run, made from its records under ids that every process derives alike.

A run outlives the call that started it, and may outlive the process that drives it. So its spans
are made from its records when something ends: a process that takes a run over exports again what
the previous process may not have sent, under the same ids, and closes the spans that it left open.
No span is orphaned. What a run does after a redrive is below a span of that redrive, because the
span of the run itself was exported before.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from mesh.observability.ended_span import NO_PARENT, SpanTemplate
from mesh.observability.span_ids import ChildSpans, derive_span_id, derive_span_ids
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import RECOVERED, RunStatus
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from mesh.observability.telemetry import SpanSink
    from services.orchestrator.engine.records import Record

INTERRUPTED = "interrupted"
CANCEL = "cancel"
REDRIVE = "/redrive"  # no path of a step begins so: one may be "redrive"
RECENT_US = 6_000_000  # longer than spans take to leave a process: see OTEL_BSP_SCHEDULE_DELAY
ENDED_WELL = (RunStatus.SUCCEEDED, RunStatus.REFUSED)
NO_TRACE = 0, TraceFlags.get_default()
MAX_TEMPLATES = 4096  # cached between spans
MAX_EVENTS = 128  # of one span, as in the OpenTelemetry specification; then the oldest are dropped


class AttemptSpan(NamedTuple):
    """An attempt that has started and not ended."""

    path: str
    attempt: tuple[str | int, ...]  # distinguishes it from other spans of the step
    started_us: int
    method: str  # empty if it makes no call of its own
    service: str


@dataclass(slots=True)
class RunSpans:
    """Exports the spans of one run while it observes the run's records."""

    span_sink: SpanSink | None  # None: traces are off
    run_id: str
    workflow_id: str
    traceparent: str
    _steps: dict[str, AttemptSpan] = field(default_factory=dict)
    _cancels: dict[str, AttemptSpan] = field(default_factory=dict)
    _created_us: int = 0
    _trace: tuple[int, TraceFlags] = NO_TRACE
    _attributes: dict[str, str | int] = field(default_factory=dict)  # of every span
    _redrive: tuple[str | int, ...] = ()  # (REDRIVE, its number); distinguishes its spans
    _top: int = 0  # the parent of all spans since the start, or the last redrive
    _events: BoundedList[Event] | None = None  # of the span ``_top``
    _is_exported: bool = False  # the spans that end now were exported before

    def __post_init__(self) -> None:
        if not self.traceparent:
            self.span_sink = None
            return
        trace_id, flags = self._trace = (
            int(self.traceparent[3:35], 16),
            TraceFlags(int(self.traceparent[53:55], 16)),
        )
        self._attributes["run.id"] = self.run_id
        self._top = derive_span_id(self.run_id)
        if self.span_sink is not None and not self.span_sink.samples(trace_id, flags):
            self.span_sink = None

    def calling(self, path: str, *attempt: str | int) -> AbstractContextManager[object]:
        """Makes this attempt of the step the parent of the calls in the block."""
        if not self.traceparent:
            return nullcontext()
        own, call = self._ids(path, *attempt)
        return ChildSpans(self._trace[0], own, self._trace[1], call)

    def observe(self, records: Iterable[Record], *, again: bool = False) -> None:
        """Exports the spans that end with these records, which must come in order from the first.

        ``again``: also exports the spans of calls that another process made.
        """
        if self.span_sink is None:
            return
        for record in self._skip_exported(list(records)) if again else records:
            _OBSERVE.get(record.kind, RunSpans._end_step)(self, record, again)

    def _skip_exported(self, records: list[Record]) -> list[Record]:
        """Notes the records before the last redrive without an export; returns the others."""
        exported = _count_exported(records)
        self._is_exported = True
        for record in records[:exported]:
            _OBSERVE.get(record.kind, RunSpans._end_step)(self, record, True)
        self._is_exported = False
        return records[exported:]

    def _start_run(self, record: Record, again: bool) -> None:
        self._created_us = record.at_us

    def _start_redrive(self, record: Record, again: bool) -> None:
        self._interrupt_cancels(record, again)
        self._redrive = (REDRIVE, int(self._redrive[-1]) + 1 if self._redrive else 1)
        self._top = derive_span_id(self.run_id, *self._redrive)
        self._created_us = record.at_us
        self._events, previous = None, record.payload["previous_status"]
        redriven = {"redrive.number": self._redrive[-1], "run.status": previous}
        self._add_event(_event(record, "redrive", redriven))
        for path, step in self._steps.items():
            if not step.method:  # the steps inside it may continue
                self._steps[path] = step._replace(attempt=(1,), started_us=record.at_us)
        for path in record.payload["restart"]:
            self._steps.pop(path, None)

    def _start_step(self, record: Record, again: bool) -> None:
        payload = record.payload
        method, service = payload.get("method", ""), payload.get("service", "")
        attempt = AttemptSpan(record.path, (record.attempt,), record.at_us, method, service)
        self._steps[record.path] = attempt

    def _start_attempt(self, record: Record, again: bool) -> None:
        last = self._steps[record.path]
        if record.payload["cause"] == RECOVERED:
            self._end(last, record.at_us, INTERRUPTED, again=True)
        attempt = last._replace(attempt=(record.attempt,), started_us=record.at_us)
        self._steps[record.path] = attempt

    def _end_step(self, record: Record, again: bool) -> None:
        path, payload = record.path, record.payload
        ended = self._steps.get(path) or AttemptSpan(path, (record.attempt,), record.at_us, "", "")
        if record.kind is not RecordKind.STEP_FAILED:
            self._end(ended, record.at_us, again=again)
            return
        error = _error_type(record)
        events: tuple[Event, ...] = ()
        if "retry_us" in payload:
            delay_ms = (payload["retry_us"] - record.at_us) // 1000
            events = (_event(record, "retry", {"retry.delay_ms": delay_ms, "error.type": error}),)
        self._end(ended, record.at_us, error, again=again, events=events)

    def _ignore(self, record: Record, again: bool) -> None:
        """Ignores a record that neither starts nor ends an attempt."""

    def _observe_event(self, record: Record, again: bool) -> None:
        name, attributes = _EVENTS[record.kind]
        self._add_event(_event(record, name, attributes(record)))

    def _add_event(self, event: Event) -> None:
        """Adds an event to the span of the run, or of its last redrive."""
        if self._events is None:
            self._events = BoundedList(MAX_EVENTS)
        self._events.append(event)

    def _observe_cancel(self, record: Record, again: bool) -> None:
        path, payload = record.path, record.payload
        if record.kind is RecordKind.CANCEL_INTENT:
            step = self._steps[path]
            self._end(step, record.at_us, _error_type(record), again=again)
            attempt = (CANCEL, 1)
            method = payload["method"]
            self._cancels[path] = AttemptSpan(path, attempt, record.at_us, method, step.service)
            return
        cancel = self._cancels.pop(path)
        error = _error_type(record) if record.kind is RecordKind.CANCEL_FAILED else ""
        self._end(cancel, record.at_us, error, again=again)
        if "retry_us" in payload:
            self._cancels[path] = _next_cancel(cancel, payload["retry_us"])

    def _interrupt_cancels(self, record: Record, again: bool) -> None:
        for path, cancel in self._cancels.items():
            if cancel.started_us <= record.at_us:
                self._end(cancel, record.at_us, INTERRUPTED, again=True)
            self._cancels[path] = _next_cancel(cancel, record.at_us)

    def _end(
        self,
        ended: AttemptSpan,
        at_us: int,
        error: str = "",
        *,
        again: bool,
        events: Sequence[Event] = (),
    ) -> None:
        path, attempt = ended.path, ended.attempt
        outer = step_path.parent(path)
        # A step with inner steps has one attempt, which is their parent; if it never started, it
        # has no span.
        parent = self._ids(outer, 1)[0] if outer in self._steps else self._top
        own, call = self._ids(path, *attempt)
        times = (ended.started_us, at_us)
        step = _step_template(self.workflow_id, path, attempt, error)
        self._export(step, (own, parent), times, events)
        if again and ended.method:
            template = _call_template(self.workflow_id, ended.method, ended.service, error)
            self._export(template, (call, own), times)

    def _end_run(self, record: Record, again: bool) -> None:
        name = f"redrive {self._redrive[-1]}" if self._redrive else f"run {self.workflow_id}"
        parent = derive_span_id(self.run_id) if self._redrive else int(self.traceparent[36:52], 16)
        times = (self._created_us, record.at_us)
        events, self._events = self._events or (), None
        template = _run_template(self.workflow_id, name, record.payload["status"])
        self._export(template, (self._top, parent), times, events)

    def _ids(self, path: str, *attempt: str | int) -> tuple[int, int]:
        """Returns the span ids of the attempt and of the call that it makes."""
        return derive_span_ids(self.run_id, *self._redrive, path, *attempt)

    def _export(
        self,
        template: SpanTemplate,
        ids: tuple[int, int],
        times_us: tuple[int, int],
        events: Sequence[Event] = (),
    ) -> None:
        if self.span_sink is None or self._is_exported:
            return
        start_us, end_us = times_us
        times_ns = start_us * 1000, max(end_us, start_us) * 1000
        self.span_sink.add(template, self._trace, ids, times_ns, self._attributes, events)


def parent_of_run(run_id: str, caller: SpanContext | None, serving: SpanContext) -> str:
    """Returns the parent of a new run's span as a traceparent (W3C Trace Context).

    That is the caller's span, which outlives the call. For a caller without a span it is the start
    of a new trace, apart from that of the call being served, whose span may be lost with a killed
    process. Returns an empty string if traces are off.
    """
    if caller is not None:
        return _traceparent(caller.trace_id, caller.span_id, caller.trace_flags)
    if not serving.is_valid:
        return ""
    # The sampler decides by the lower half: with the same one, both are sampled or neither.
    _, upper = derive_span_ids(run_id)
    trace_id = upper << 64 | serving.trace_id & 2**64 - 1
    return _traceparent(trace_id, NO_PARENT, serving.trace_flags)


def sampled(traceparent: str) -> str:
    """Returns the trace as a sampled one; without a parent if its caller does not sample it."""
    if not traceparent or int(traceparent[53:55], 16) & 1:
        return traceparent
    return _traceparent(int(traceparent[3:35], 16), NO_PARENT, 1)


def traceparent_of_run(run_id: str, parent: str) -> str:
    """Returns the traceparent of spans below the run itself."""
    return f"{parent[:36]}{derive_span_id(run_id):016x}{parent[52:]}" if parent else ""


def trace_id_of(traceparent: str) -> str:
    """Returns the trace id as 32 hex digits; an empty string if there is no trace."""
    return traceparent[3:35]


def _traceparent(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


@lru_cache(MAX_TEMPLATES)
def _run_template(workflow_id: str, name: str, status: str) -> SpanTemplate:
    attributes = {"workflow.id": workflow_id, "run.status": status}
    return SpanTemplate(name, attributes, error="" if status in ENDED_WELL else status)


@lru_cache(MAX_TEMPLATES)
def _step_template(
    workflow_id: str, path: str, attempt: tuple[str | int, ...], error: str
) -> SpanTemplate:
    name = " ".join((*map(str, attempt[:-1]), path))
    attributes = {"workflow.id": workflow_id, "step.path": path, "attempt": attempt[-1]}
    return SpanTemplate(name, attributes, error=error)


@lru_cache(MAX_TEMPLATES)
def _call_template(workflow_id: str, method: str, service: str, error: str) -> SpanTemplate:
    name = method.lstrip("/")
    attributes = {
        "workflow.id": workflow_id,
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "server.address": service,
    }
    return SpanTemplate(name, attributes, SpanKind.CLIENT, error=error)


# The name of an event on the span of a run, and its attributes: no payload, no name of a person.
_EVENTS: dict[RecordKind, tuple[str, Callable[[Record], Mapping[str, str | int | bool]]]] = {
    RecordKind.SIGNAL: ("signal.received", lambda record: {"signal.name": record.payload["name"]}),
    RecordKind.EVENT: ("event.received", lambda record: {"event.type": record.payload["type"]}),
    RecordKind.APPROVAL: (
        "decision.received",
        lambda record: {
            "step.path": record.payload["step"],
            "decision.approved": record.payload["approved"],
        },
    ),
    RecordKind.CANCEL_RUN: ("cancel.requested", lambda _: {}),
    RecordKind.STEP_HANDLED: ("step.handled", lambda record: {"step.path": record.path}),
    RecordKind.STEP_CIRCUIT_OPEN: (
        "circuit_breaker.open",
        lambda record: {"step.path": record.path, "error.type": _error_type(record)},
    ),
}

_OBSERVE: dict[RecordKind, Callable[[RunSpans, Record, bool], None]] = {
    RecordKind.START: RunSpans._start_run,
    RecordKind.FINISH: RunSpans._end_run,
    RecordKind.REDRIVEN: RunSpans._start_redrive,
    RecordKind.RECOVERED: RunSpans._interrupt_cancels,
    RecordKind.CANCEL_INTENT: RunSpans._observe_cancel,
    RecordKind.CANCEL_FAILED: RunSpans._observe_cancel,
    RecordKind.CANCEL_DONE: RunSpans._observe_cancel,
    RecordKind.STEP_INTENT: RunSpans._start_step,
    RecordKind.STEP_ATTEMPT: RunSpans._start_attempt,
    **dict.fromkeys(_EVENTS, RunSpans._observe_event),
    RecordKind.STOPPING: RunSpans._ignore,
    RecordKind.ERASED: RunSpans._ignore,
}


def _count_exported(records: list[Record]) -> int:
    """Returns how many of the first records precede a redrive that came long after the end."""
    for at in reversed(range(1, len(records))):
        waited_us = records[at].at_us - records[at - 1].at_us
        if records[at].kind is RecordKind.REDRIVEN and waited_us > RECENT_US:
            return at
    return 0


def _event(record: Record, name: str, attributes: Mapping[str, str | int | bool]) -> Event:
    return Event(name, attributes, record.at_us * 1000)


def _next_cancel(cancel: AttemptSpan, started_us: int) -> AttemptSpan:
    number = int(cancel.attempt[-1]) + 1
    return cancel._replace(attempt=(CANCEL, number), started_us=started_us)


def _error_type(record: Record) -> str:
    """Returns the reason or code of a failure, which holds no personal data."""
    error = record.payload["error"]
    return str(error["reason"] or error["code"])
