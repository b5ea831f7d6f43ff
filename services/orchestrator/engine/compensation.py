"""The end of a run: payments that it did not make are cancelled, completed steps taken back."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from services.orchestrator.definition import values
from services.orchestrator.definition.workflow import Call
from services.orchestrator.engine import outcome, payments, step_path
from services.orchestrator.engine.calls import build_cancel, method_of
from services.orchestrator.engine.model import Phase, RunStatus, StepStatus
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from services.orchestrator.engine.interpreter import Interpreter
    from services.orchestrator.engine.record_writer import RecordWriter

COMPENSATED_ENDS = (RunStatus.FAILED, RunStatus.REFUSED, RunStatus.CANCELLED)
CANCELLED = "cancelled"  # the state of a payment that was cancelled


class Compensation:
    """Takes back what the completed steps of a failed run did, the last one first (a saga)."""

    __slots__ = ("_interpreter", "_writer")

    def __init__(self, writer: RecordWriter, interpreter: Interpreter) -> None:
        self._writer = writer
        self._interpreter = interpreter

    def pending(self, status: RunStatus) -> list[str]:
        """Returns the steps to take back in a run that ends like this, the last one first."""
        if status not in COMPENSATED_ENDS:
            return []
        steps = self._writer.state.steps
        return [
            step.path
            for step in sorted(steps.values(), key=lambda s: s.last_sequence, reverse=True)
            if step.status is StepStatus.SUCCEEDED
            and f"{step.path}/{step_path.COMPENSATE}" not in steps
            and not outcome.belongs_to_end(step)
            and self._has_compensation(step.path)
        ]

    def _has_compensation(self, path: str) -> bool:
        action = step_path.locate(self._writer.workflow, path).step.action
        return isinstance(action, Call) and action.compensate is not None

    def begin(self, path: str) -> None:
        own = f"{path}/{step_path.COMPENSATE}"
        self._interpreter.begin(step_path.locate(self._writer.workflow, own).step, own)

    def failure(self) -> tuple[RunStatus, str] | None:
        """Returns how the run ends because a step could not be taken back, or None."""
        for step in self._writer.state.steps.values():
            undoes = step.path.endswith(f"/{step_path.COMPENSATE}") and step.phase is Phase.ENDED
            if undoes and step.status is not StepStatus.SUCCEEDED:
                return RunStatus.COMPENSATION_FAILED, f"{step.path}: {step.error}"
        return None

    def final_status(self, status: RunStatus) -> RunStatus:
        """Returns COMPENSATED instead of ``status`` if a step was taken back."""
        steps = self._writer.state.steps
        undone = any(path.endswith(f"/{step_path.COMPENSATE}") for path in steps)
        return RunStatus.COMPENSATED if undone else status


class PaymentCancellation:
    """Cancels the payments that a cancelled run did not make, at the service that would make them.

    Afterwards the service refuses each payment id for ever, and reports the payment as cancelled.
    The cancel is a call like any other, with the path ``pay/cancel``: recorded, retried, and
    waiting while the circuit breaker of its service is open.
    """

    __slots__ = ("_writer",)

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer

    def begin(self, status: RunStatus) -> bool:
        """Begins the cancels that a cancelled run still needs. Returns whether any is in flight."""
        state = self._writer.state
        if status is not RunStatus.CANCELLED and not state.cancellation:
            return False
        for payment_id, path in payments.unsettled(self._writer.workflow, state).items():
            if f"{path}/{step_path.CANCEL}" not in state.steps and self._may_pay(path):
                self._cancel(payment_id, path)
        return bool(state.in_flight)

    def _may_pay(self, path: str) -> bool:
        """Returns whether the run has the privilege to pay, without which it cancels nothing."""
        allowed = self._writer.state.allowed_privileges
        return allowed is None or method_of(self._writer.call_at(path)).privilege in allowed

    def _cancel(self, payment_id: str, path: str) -> None:
        own = f"{path}/{step_path.CANCEL}"
        step = step_path.locate(self._writer.workflow, own).step
        cancel = method_of(self._writer.call_at(own))
        request = build_cancel(cancel, payment_id)
        payload = {
            **self._writer.metadata(step, own),
            "cancels_payment": True,
            "input": values.to_json(cancel.request.FromString(request)),
            "method": cancel.path,
            "service": cancel.service,
            "key": payment_id,
            "request": b64encode(request).decode(),
        }
        self._writer.add(RecordKind.STEP_INTENT, own, payload, attempt=1)

    def failure(self) -> tuple[RunStatus, str] | None:
        """Returns how the run ends because a payment is not cancelled, or None.

        A caller that sees "cancelled" pays again under a new id, so it must be true.
        """
        for step in self._writer.state.steps.values():
            if not step.cancels_payment or step.phase is not Phase.ENDED:
                continue
            if step.status is StepStatus.FAILED:
                return RunStatus.NEEDS_ATTENTION, f"{step.path}: {step.error}"
            payment = (step.reply or {}).get("payment") or {}
            if step.status is StepStatus.SUCCEEDED and payment.get("state") != CANCELLED:
                reason = f"{step.path}: {outcome.NOT_SENT} {payment.get('state')}"
                return RunStatus.NEEDS_ATTENTION, reason
        return None
