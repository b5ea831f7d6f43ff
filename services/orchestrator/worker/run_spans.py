"""The spans of a run, drawn from its records under ids that everybody derives alike.

A run outlives the call that started it, and may outlive the process that drives it. So its spans
are made from the journal when something ends: whoever takes a run over draws again what the last
process may not have sent, under the same ids, and closes what it left open. No span is orphaned.
What a run does once it was redriven is below a span of that redrive: the run's own was drawn.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.trace import SpanKind, TraceFlags

from mesh.observability.spans import MAX_SPAN_TEMPLATES, FinishedSpan, span_template
from mesh.observability.telemetry import derive_span_id, derive_span_ids
from mesh.observability.tracer import ChildSpans
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import RECOVERED, RunStatus
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from mesh.observability.spans import SpanSink, SpanTemplate
    from services.orchestrator.engine.records import Record

INTERRUPTED = "interrupted"
CANCEL = "cancel"
LATELY = 2_000_000  # microseconds: longer than spans take to leave a process
ENDED_WELL = (RunStatus.SUCCEEDED, RunStatus.REFUSED)


class _OpenSpan(NamedTuple):
    """Something that was begun and has not ended."""

    path: str
    attempt: tuple[str | int, ...]  # what tells its spans from others of the step
    started_us: int
    method: str  # empty if it makes no call of its own
    service: str


@dataclass(slots=True)
class RunSpans:
    draw: SpanSink | None  # None: nobody looks
    run_id: str
    workflow_id: str
    traceparent: str
    _steps: dict[str, _OpenSpan] = field(default_factory=dict)
    _cancels: dict[str, _OpenSpan] = field(default_factory=dict)
    _created_us: int = 0
    _trace_id: int = 0
    _flags: int = 0
    _span_id: int = 0
    _leg: tuple[
        str | int, ...
    ] = ()  # what tells spans from those of the same step before a redrive
    _top: int = 0  # the span that is above all others of this leg

    def __post_init__(self) -> None:
        if self.traceparent:
            self._trace_id = int(self.traceparent[3:35], 16)
            self._flags = int(self.traceparent[53:55], 16)
            self._span_id = self._top = derive_span_id(self.run_id)

    def calling(self, path: str, *attempt: str | int) -> AbstractContextManager[object]:
        """Calls made in the block belong to this attempt of the step."""
        if not self.traceparent:
            return nullcontext()
        own, call = self._ids(path, *attempt)
        return ChildSpans(self._trace_id, own, self._flags, call)

    def observe(self, records: Iterable[Record], *, again: bool = False) -> None:
        """Draw what ends with these records. ``again``: also the calls that another process made.

        Records must come in order, from the first one on.
        """
        if self.draw is None or not self._flags & TraceFlags.SAMPLED:
            return
        for record in self._pass_over(list(records)) if again else records:
            _OBSERVE.get(record.kind, RunSpans._end_step)(self, record, again)

    def _pass_over(self, records: list[Record]) -> list[Record]:
        """Note what was drawn, and sent, before the run was redriven; the rest is to be drawn."""
        drawn, draw = _drawn_long_ago(records), self.draw
        self.draw = _draw_nothing
        for record in records[:drawn]:
            _OBSERVE.get(record.kind, RunSpans._end_step)(self, record, True)
        self.draw = draw
        return records[drawn:]

    def _begin_run(self, record: Record, again: bool) -> None:
        self._created_us = record.at_us

    def _redrive(self, record: Record, again: bool) -> None:
        self._interrupt_cancels(record, again)
        self._leg = ("redrive", int(self._leg[-1]) + 1 if self._leg else 1)
        self._top = derive_span_id(self.run_id, *self._leg)
        self._created_us = record.at_us
        for path, step in self._steps.items():
            if not step.method:  # it may go on with what is inside it
                self._steps[path] = step._replace(attempt=(1,), started_us=record.at_us)
        for path in record.payload["restart"]:
            self._steps.pop(path, None)

    def _begin_step(self, record: Record, again: bool) -> None:
        payload = record.payload
        method, service = payload.get("method", ""), payload.get("service", "")
        begun = _OpenSpan(record.path, (record.attempt,), record.at_us, method, service)
        self._steps[record.path] = begun

    def _begin_attempt(self, record: Record, again: bool) -> None:
        last = self._steps[record.path]
        if record.payload["cause"] == RECOVERED:
            self._end(last, record.at_us, INTERRUPTED, again=True)
        begun = last._replace(attempt=(record.attempt,), started_us=record.at_us)
        self._steps[record.path] = begun

    def _end_step(self, record: Record, again: bool) -> None:
        path = record.path
        ended = self._steps.get(path) or _OpenSpan(path, (record.attempt,), record.at_us, "", "")
        error = _word(record) if record.kind is RecordKind.STEP_FAILED else ""
        self._end(ended, record.at_us, error, again=again)

    def _go_on(self, record: Record, again: bool) -> None:
        """Nothing was sent, and nothing ended."""

    def _observe_cancel(self, record: Record, again: bool) -> None:
        path, payload = record.path, record.payload
        if record.kind is RecordKind.CANCEL_INTENT:
            step = self._steps[path]
            self._end(step, record.at_us, _word(record), again=again)
            attempt = (CANCEL, 1)
            method = payload["method"]
            self._cancels[path] = _OpenSpan(path, attempt, record.at_us, method, step.service)
            return
        cancel = self._cancels.pop(path)
        error = _word(record) if record.kind is RecordKind.CANCEL_FAILED else ""
        self._end(cancel, record.at_us, error, again=again)
        if "retry_us" in payload:
            self._cancels[path] = _next(cancel, payload["retry_us"])

    def _interrupt_cancels(self, record: Record, again: bool) -> None:
        for path, cancel in self._cancels.items():
            if cancel.started_us <= record.at_us:
                self._end(cancel, record.at_us, INTERRUPTED, again=True)
            self._cancels[path] = _next(cancel, record.at_us)

    def _end(self, ended: _OpenSpan, at_us: int, error: str, *, again: bool) -> None:
        path, attempt = ended.path, ended.attempt
        outer = step_path.parent(path)
        # What is inside a step is inside its first attempt, and it has no other; if it never began,
        # it has no span.
        parent = self._ids(outer, 1)[0] if outer in self._steps else self._top
        own, call = self._ids(path, *attempt)
        times = (ended.started_us, at_us)
        self._draw(_step_shape(self.workflow_id, path, attempt, error), own, parent, times)
        if again and ended.method:
            span_template = _call_shape(self.workflow_id, ended.method, ended.service, error)
            self._draw(span_template, call, own, times)

    def _end_run(self, record: Record, again: bool) -> None:
        name = f"redrive {self._leg[-1]}" if self._leg else f"run {self.workflow_id}"
        span_template = _run_shape(self.workflow_id, name, record.payload["status"])
        parent = self._span_id if self._leg else int(self.traceparent[36:52], 16)
        self._draw(span_template, self._top, parent, (self._created_us, record.at_us))

    def _ids(self, path: str, *attempt: str | int) -> tuple[int, int]:
        """Of an attempt, and of the call that it makes."""
        return derive_span_ids(self.run_id, *self._leg, path, *attempt)

    def _draw(
        self, span_template: SpanTemplate, id: int, parent: int, times_us: tuple[int, int]
    ) -> None:
        start_us, end_us = times_us
        start_ns, end_ns = start_us * 1000, max(end_us, start_us) * 1000
        own = {"run.id": self.run_id}
        assert self.draw is not None  # noqa: S101  (or nothing is observed)
        self.draw(FinishedSpan(span_template, self._trace_id, id, parent, start_ns, end_ns, own))


@lru_cache(MAX_SPAN_TEMPLATES)
def _run_shape(workflow_id: str, name: str, status: str) -> SpanTemplate:
    about = {"workflow.id": workflow_id, "run.status": status}
    return _shape(name, about, "" if status in ENDED_WELL else status)


@lru_cache(MAX_SPAN_TEMPLATES)
def _step_shape(
    workflow_id: str, path: str, attempt: tuple[str | int, ...], error: str
) -> SpanTemplate:
    name = " ".join((*map(str, attempt[:-1]), path))
    about = {"workflow.id": workflow_id, "step.path": path, "attempt": attempt[-1]}
    return _shape(name, about, error)


@lru_cache(MAX_SPAN_TEMPLATES)
def _call_shape(workflow_id: str, method: str, service: str, error: str) -> SpanTemplate:
    name = method.lstrip("/")
    about = {
        "workflow.id": workflow_id,
        "rpc.system.name": "grpc",
        "rpc.method": name,
        "server.address": service,
    }
    return _shape(name, about, error, SpanKind.CLIENT)


def _shape(
    name: str, about: Mapping[str, str | int], error: str, kind: SpanKind = SpanKind.INTERNAL
) -> SpanTemplate:
    if error:
        about = {**about, "error.type": error}
    return span_template(name, tuple(about.items()), kind, failed=bool(error), why=error)


_OBSERVE: dict[RecordKind, Callable[[RunSpans, Record, bool], None]] = {
    RecordKind.START: RunSpans._begin_run,
    RecordKind.FINISH: RunSpans._end_run,
    RecordKind.REDRIVEN: RunSpans._redrive,
    RecordKind.RECOVERED: RunSpans._interrupt_cancels,
    RecordKind.CANCEL_INTENT: RunSpans._observe_cancel,
    RecordKind.CANCEL_FAILED: RunSpans._observe_cancel,
    RecordKind.CANCEL_DONE: RunSpans._observe_cancel,
    RecordKind.STEP_INTENT: RunSpans._begin_step,
    RecordKind.STEP_ATTEMPT: RunSpans._begin_attempt,
    RecordKind.STEP_CIRCUIT_OPEN: RunSpans._go_on,
    RecordKind.STEP_HANDLED: RunSpans._go_on,
    RecordKind.SIGNAL: RunSpans._go_on,
    RecordKind.CANCEL_RUN: RunSpans._go_on,
    RecordKind.STOPPING: RunSpans._go_on,
    RecordKind.ERASED: RunSpans._go_on,
}


def _drawn_long_ago(records: list[Record]) -> int:
    """How many of the records, the first ones, are of a run that had ended long before."""
    for at in reversed(range(1, len(records))):
        waited_us = records[at].at_us - records[at - 1].at_us
        if records[at].kind is RecordKind.REDRIVEN and waited_us > LATELY:
            return at
    return 0


def _draw_nothing(span: FinishedSpan) -> None:
    """It was drawn."""


def _next(cancel: _OpenSpan, started_us: int) -> _OpenSpan:
    number = int(cancel.attempt[-1]) + 1
    return cancel._replace(attempt=(CANCEL, number), started_us=started_us)


def _word(record: Record) -> str:
    """Why it failed, in a word that says nothing about anybody."""
    error = record.payload["error"]
    return str(error["reason"] or error["code"])
