"""The spans of a run, drawn from its records under ids that everybody derives alike.

A run outlives the call that started it, and may outlive the process that drives it. So its spans
are made from the journal when something ends: whoever takes a run over draws again what the last
process may not have sent, under the same ids, and closes what it left open. No span is orphaned.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from mesh.telemetry import derive_span_id, next_span_id
from services.orchestrator.engine import places
from services.orchestrator.engine.record import Kind
from services.orchestrator.engine.state import RECOVERED, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.trace import Tracer

    from services.orchestrator.engine.record import Record

INTERRUPTED = "interrupted"
CANCEL = "cancel"
ENDED_WELL = (RunStatus.SUCCEEDED, RunStatus.REFUSED)


NO_PARENT = 0


def parent_of_run(run_id: str, caller: SpanContext | None, serving: SpanContext) -> str:
    """What a run is below, as a traceparent: the caller's span, which outlives the call.

    A caller without a span has a trace begun for the run, apart from that of the call being
    served: its span may never leave a process that is killed. Empty if nobody traces.
    """
    if caller is not None:
        return _traceparent(caller.trace_id, caller.span_id, caller.trace_flags)
    if not serving.is_valid:
        return ""
    # The sampler judges by the lower half: with the same one, both are sampled or neither.
    trace_id = derive_span_id("trace", run_id) << 64 | serving.trace_id & 2**64 - 1
    return _traceparent(trace_id, NO_PARENT, serving.trace_flags)


def traceparent_of_run(run_id: str, parent: str) -> str:
    """For whoever continues the run's trace below the run itself."""
    return f"{parent[:36]}{derive_span_id(run_id):016x}{parent[52:]}" if parent else ""


def trace_id_of(traceparent: str) -> str:
    """32 hex digits, or nothing."""
    return traceparent[3:35]


@dataclass(frozen=True, slots=True)
class _Open:
    """Something that was begun and has not ended."""

    path: str
    attempt: tuple[str | int, ...]  # what tells its spans from others of the step
    started_us: int
    method: str  # empty if it makes no call of its own
    service: str


@dataclass(slots=True)
class RunTrace:
    tracer: Tracer
    run_id: str
    workflow_id: str
    traceparent: str
    _steps: dict[str, _Open] = field(default_factory=dict)
    _cancels: dict[str, _Open] = field(default_factory=dict)
    _created_us: int = 0

    @contextmanager
    def calling(self, path: str, *attempt: str | int) -> Iterator[None]:
        """Calls made in the block belong to this attempt of the step."""
        with ExitStack() as stack:
            if self.traceparent:
                span = self._context(derive_span_id(self.run_id, path, *attempt))
                stack.enter_context(trace.use_span(NonRecordingSpan(span)))
                call = derive_span_id(self.run_id, path, *attempt, "call")
                stack.enter_context(next_span_id(call))
            yield

    def observe(self, records: Iterable[Record], *, again: bool = False) -> None:
        """Draw what ends with these records. ``again``: also the calls that another process made.

        Records must come in order, from the first one on.
        """
        for record in records:
            self._observe(record, again)

    def _observe(self, record: Record, again: bool) -> None:
        match record.kind:
            case Kind.START:
                self._created_us = record.at_us
            case Kind.FINISH:
                self._end_run(record)
            case Kind.RECOVERED:
                self._interrupt_cancels(record)
            case Kind.CANCEL_INTENT | Kind.CANCEL_FAILED | Kind.CANCEL_DONE:
                self._observe_cancel(record, again)
            case Kind.STEP_PARKED | Kind.STEP_HANDLED:
                pass  # nothing was sent, or nothing ended
            case Kind.SIGNAL | Kind.CANCEL_RUN | Kind.STOPPING:
                pass  # of the run, which goes on
            case _:
                self._observe_step(record, again)

    def _observe_step(self, record: Record, again: bool) -> None:
        path, payload = record.path, record.payload
        begun = _Open(path, (record.attempt,), record.at_us, "", "")
        match record.kind:
            case Kind.STEP_INTENT:
                method, service = payload.get("method", ""), payload.get("service", "")
                self._steps[path] = replace(begun, method=method, service=service)
            case Kind.STEP_ATTEMPT:
                last = self._steps[path]
                if payload["cause"] == RECOVERED:
                    self._end(last, record.at_us, INTERRUPTED, again=True)
                self._steps[path] = replace(begun, method=last.method, service=last.service)
            case Kind.STEP_FAILED:
                self._end(self._steps.get(path, begun), record.at_us, _word(record), again=again)
            case _:
                self._end(self._steps.get(path, begun), record.at_us, "", again=again)

    def _observe_cancel(self, record: Record, again: bool) -> None:
        path, payload = record.path, record.payload
        if record.kind is Kind.CANCEL_INTENT:
            step = self._steps[path]
            self._end(step, record.at_us, _word(record), again=again)
            attempt = (CANCEL, 1)
            method = payload["method"]
            self._cancels[path] = _Open(path, attempt, record.at_us, method, step.service)
            return
        cancel = self._cancels.pop(path)
        error = _word(record) if record.kind is Kind.CANCEL_FAILED else ""
        self._end(cancel, record.at_us, error, again=again)
        if "retry_us" in payload:
            self._cancels[path] = _next(cancel, payload["retry_us"])

    def _interrupt_cancels(self, record: Record) -> None:
        for path, cancel in self._cancels.items():
            if cancel.started_us <= record.at_us:
                self._end(cancel, record.at_us, INTERRUPTED, again=True)
            self._cancels[path] = _next(cancel, record.at_us)

    def _end(self, ended: _Open, at_us: int, error: str, *, again: bool) -> None:
        path, attempt = ended.path, ended.attempt
        outer = places.outer(path)
        # What is inside a step is inside its first attempt: such a step has no other.
        parent = derive_span_id(self.run_id, outer, 1) if outer else derive_span_id(self.run_id)
        own = derive_span_id(self.run_id, path, *attempt)
        times = (ended.started_us, at_us)
        about = {"step.path": path, "attempt": attempt[-1]}
        name = " ".join((*map(str, attempt[:-1]), path))
        self._draw(own, parent, name, times, about, error)
        if again and ended.method:
            method = ended.method.lstrip("/")
            about = {
                "rpc.system.name": "grpc",
                "rpc.method": method,
                "server.address": ended.service,
            }
            call = derive_span_id(self.run_id, path, *attempt, "call")
            self._draw(call, own, method, times, about, error, SpanKind.CLIENT)

    def _end_run(self, record: Record) -> None:
        status = record.payload["status"]
        self._draw(
            derive_span_id(self.run_id),
            int(self.traceparent[36:52] or "0", 16),
            f"run {self.workflow_id}",
            (self._created_us, record.at_us),
            {"run.status": status},
            "" if status in ENDED_WELL else status,
        )

    @property
    def _sampled(self) -> bool:
        return bool(self.traceparent) and int(self.traceparent[53:55], 16) & 1 == 1

    def _draw(
        self,
        id: int,
        parent: int,
        name: str,
        times_us: tuple[int, int],
        attributes: dict[str, str | int],
        error: str,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        if not self._sampled:
            return
        start_us, end_us = times_us
        with next_span_id(id, trace_id=int(self.traceparent[3:35], 16)):
            span = self.tracer.start_span(
                name,
                context=self._parent(parent),
                kind=kind,
                start_time=start_us * 1000,
                attributes={
                    "workflow.id": self.workflow_id,
                    "run.id": self.run_id,
                    **attributes,
                },
            )
        if error:
            span.set_attribute("error.type", error)
            span.set_status(trace.StatusCode.ERROR, error)
        span.end(max(end_us, start_us) * 1000)

    def _parent(self, span_id: int) -> Context:
        if span_id == NO_PARENT:
            return Context()
        return trace.set_span_in_context(NonRecordingSpan(self._context(span_id)))

    def _context(self, span_id: int) -> SpanContext:
        return SpanContext(
            int(self.traceparent[3:35], 16),
            span_id,
            is_remote=True,
            trace_flags=TraceFlags(int(self.traceparent[53:55], 16)),
        )


def _traceparent(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def _next(cancel: _Open, started_us: int) -> _Open:
    number = int(cancel.attempt[-1]) + 1
    return replace(cancel, attempt=(CANCEL, number), started_us=started_us)


def _word(record: Record) -> str:
    """Why it failed, in a word that says nothing about anybody."""
    error = record.payload["error"]
    return str(error["reason"] or error["code"])
