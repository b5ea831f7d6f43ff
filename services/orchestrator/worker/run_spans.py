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

from opentelemetry.trace import SpanKind, TraceFlags

from mesh.observability.spans import MAX_SPAN_TEMPLATES, NO_PARENT, FinishedSpan, span_template
from mesh.observability.telemetry import derive_span_id, derive_span_ids
from mesh.observability.tracer import ChildSpans
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import RECOVERED, RunStatus
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import SpanContext

    from mesh.observability.spans import SpanSink, SpanTemplate
    from services.orchestrator.engine.records import Record

INTERRUPTED = "interrupted"
CANCEL = "cancel"
RECENT_US = 2_000_000  # longer than spans take to leave a process
ENDED_WELL = (RunStatus.SUCCEEDED, RunStatus.REFUSED)


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
    _trace_id: int = 0
    _flags: int = 0
    _span_id: int = 0
    _redrive: tuple[str | int, ...] = ()  # ("redrive", its number); distinguishes its spans
    _top: int = 0  # the parent of all spans since the start, or the last redrive

    def __post_init__(self) -> None:
        if self.traceparent:
            self._trace_id = int(self.traceparent[3:35], 16)
            self._flags = int(self.traceparent[53:55], 16)
            self._span_id = self._top = derive_span_id(self.run_id)

    def calling(self, path: str, *attempt: str | int) -> AbstractContextManager[object]:
        """Makes this attempt of the step the parent of the calls in the block."""
        if not self.traceparent:
            return nullcontext()
        own, call = self._ids(path, *attempt)
        return ChildSpans(self._trace_id, own, self._flags, call)

    def observe(self, records: Iterable[Record], *, again: bool = False) -> None:
        """Exports the spans that end with these records, which must come in order from the first.

        ``again``: also exports the spans of calls that another process made.
        """
        if self.span_sink is None or not self._flags & TraceFlags.SAMPLED:
            return
        for record in self._skip_exported(list(records)) if again else records:
            _OBSERVE.get(record.kind, RunSpans._end_step)(self, record, again)

    def _skip_exported(self, records: list[Record]) -> list[Record]:
        """Notes the records before the last redrive without an export; returns the others."""
        exported, span_sink = _count_exported(records), self.span_sink
        self.span_sink = _discard
        for record in records[:exported]:
            _OBSERVE.get(record.kind, RunSpans._end_step)(self, record, True)
        self.span_sink = span_sink
        return records[exported:]

    def _start_run(self, record: Record, again: bool) -> None:
        self._created_us = record.at_us

    def _start_redrive(self, record: Record, again: bool) -> None:
        self._interrupt_cancels(record, again)
        self._redrive = ("redrive", int(self._redrive[-1]) + 1 if self._redrive else 1)
        self._top = derive_span_id(self.run_id, *self._redrive)
        self._created_us = record.at_us
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
        path = record.path
        ended = self._steps.get(path) or AttemptSpan(path, (record.attempt,), record.at_us, "", "")
        error = _error_type(record) if record.kind is RecordKind.STEP_FAILED else ""
        self._end(ended, record.at_us, error, again=again)

    def _ignore(self, record: Record, again: bool) -> None:
        """Ignores a record that neither starts nor ends an attempt."""

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

    def _end(self, ended: AttemptSpan, at_us: int, error: str, *, again: bool) -> None:
        path, attempt = ended.path, ended.attempt
        outer = step_path.parent(path)
        # A step with inner steps has one attempt, which is their parent; if it never started, it
        # has no span.
        parent = self._ids(outer, 1)[0] if outer in self._steps else self._top
        own, call = self._ids(path, *attempt)
        times = (ended.started_us, at_us)
        self._export(_step_template(self.workflow_id, path, attempt, error), own, parent, times)
        if again and ended.method:
            template = _call_template(self.workflow_id, ended.method, ended.service, error)
            self._export(template, call, own, times)

    def _end_run(self, record: Record, again: bool) -> None:
        name = f"redrive {self._redrive[-1]}" if self._redrive else f"run {self.workflow_id}"
        template = _run_template(self.workflow_id, name, record.payload["status"])
        parent = self._span_id if self._redrive else int(self.traceparent[36:52], 16)
        self._export(template, self._top, parent, (self._created_us, record.at_us))

    def _ids(self, path: str, *attempt: str | int) -> tuple[int, int]:
        """Returns the span ids of the attempt and of the call that it makes."""
        return derive_span_ids(self.run_id, *self._redrive, path, *attempt)

    def _export(
        self, template: SpanTemplate, id: int, parent: int, times_us: tuple[int, int]
    ) -> None:
        start_us, end_us = times_us
        start_ns, end_ns = start_us * 1000, max(end_us, start_us) * 1000
        own = {"run.id": self.run_id}
        assert self.span_sink is not None  # noqa: S101  (or nothing is observed)
        self.span_sink(FinishedSpan(template, self._trace_id, id, parent, start_ns, end_ns, own))


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


@lru_cache(MAX_SPAN_TEMPLATES)
def _run_template(workflow_id: str, name: str, status: str) -> SpanTemplate:
    attributes = {"workflow.id": workflow_id, "run.status": status}
    return _template(name, attributes, "" if status in ENDED_WELL else status)


@lru_cache(MAX_SPAN_TEMPLATES)
def _step_template(
    workflow_id: str, path: str, attempt: tuple[str | int, ...], error: str
) -> SpanTemplate:
    name = " ".join((*map(str, attempt[:-1]), path))
    attributes = {"workflow.id": workflow_id, "step.path": path, "attempt": attempt[-1]}
    return _template(name, attributes, error)


@lru_cache(MAX_SPAN_TEMPLATES)
def _call_template(workflow_id: str, method: str, service: str, error: str) -> SpanTemplate:
    name = method.lstrip("/")
    attributes = {
        "workflow.id": workflow_id,
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "server.address": service,
    }
    return _template(name, attributes, error, SpanKind.CLIENT)


def _template(
    name: str, attributes: Mapping[str, str | int], error: str, kind: SpanKind = SpanKind.INTERNAL
) -> SpanTemplate:
    if error:
        attributes = {**attributes, "error.type": error}
    return span_template(name, tuple(attributes.items()), kind, failed=bool(error), error=error)


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
    RecordKind.STEP_CIRCUIT_OPEN: RunSpans._ignore,
    RecordKind.STEP_HANDLED: RunSpans._ignore,
    RecordKind.SIGNAL: RunSpans._ignore,
    RecordKind.CANCEL_RUN: RunSpans._ignore,
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


def _discard(span: FinishedSpan) -> None:
    """Discards a span that was exported before."""


def _next_cancel(cancel: AttemptSpan, started_us: int) -> AttemptSpan:
    number = int(cancel.attempt[-1]) + 1
    return cancel._replace(attempt=(CANCEL, number), started_us=started_us)


def _error_type(record: Record) -> str:
    """Returns the reason or code of a failure, which holds no personal data."""
    error = record.payload["error"]
    return str(error["reason"] or error["code"])
