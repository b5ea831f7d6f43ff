"""Sagas: what completed steps of a failed run left behind is taken back, the last one first."""

from __future__ import annotations

from base64 import b64encode

from services.orchestrator.definition import values
from services.orchestrator.definition.workflow import Call
from services.orchestrator.engine import outcome, payments, step_path
from services.orchestrator.engine.blocks import Blocks
from services.orchestrator.engine.calls import build_cancel
from services.orchestrator.engine.model import Phase, RunStatus, StepStatus
from services.orchestrator.engine.records import RecordKind

TAKEN_BACK = (RunStatus.FAILED, RunStatus.REFUSED, RunStatus.CANCELLED)


class Compensation(Blocks):
    __slots__ = ()

    def to_compensate(self, status: RunStatus) -> list[str]:
        """The steps whose effect is to be taken back, the last one first."""
        if status not in TAKEN_BACK:
            return []
        return [
            step.path
            for step in sorted(
                self.state.steps.values(), key=lambda s: s.last_sequence, reverse=True
            )
            if step.status is StepStatus.SUCCEEDED
            and f"{step.path}/{step_path.COMPENSATE}" not in self.state.steps
            and not outcome.winds_up(step)
            and self._compensation_of(step.path) is not None
        ]

    def _compensation_of(self, path: str) -> Call | None:
        action = step_path.locate(self.workflow, path).step.action
        return action.compensate if isinstance(action, Call) else None

    def begin_compensation(self, path: str) -> None:
        own = f"{path}/{step_path.COMPENSATE}"
        self.begin(step_path.locate(self.workflow, own).step, own)

    def failed_compensation(self) -> tuple[RunStatus, str] | None:
        for step in self.state.steps.values():
            undoes = step.path.endswith(f"/{step_path.COMPENSATE}") and step.phase is Phase.ENDED
            if undoes and step.status is not StepStatus.SUCCEEDED:
                return RunStatus.COMPENSATION_FAILED, f"{step.path}: {step.error}"
        return None

    def after_compensations(self, status: RunStatus) -> RunStatus:
        undone = any(path.endswith(f"/{step_path.COMPENSATE}") for path in self.state.steps)
        return RunStatus.COMPENSATED if undone else status


CANCELLED = "cancelled"  # what a payment's state is called that was refused for ever


class PaymentCancellation(Compensation):
    __slots__ = ()

    def refuse_payments(self, status: RunStatus) -> bool:
        """Begin to refuse what the run did not pay, if somebody cancelled it. False if all is."""
        if status is not RunStatus.CANCELLED and not self.state.cancellation:
            return False
        for payment_id, path in payments.unsettled(self.workflow, self.state).items():
            if f"{path}/{step_path.CANCEL}" not in self.state.steps and self._may_pay(path):
                self._refuse(payment_id, path)
        return bool(self.state.in_flight)

    def _may_pay(self, path: str) -> bool:
        """A run that may not use the privilege can neither pay nor keep others from it."""
        runs = self.method_at(path)
        return (
            self.state.allowed_privileges is None or runs.privilege in self.state.allowed_privileges
        )

    def _refuse(self, payment_id: str, path: str) -> None:
        own = f"{path}/{step_path.CANCEL}"
        step = step_path.locate(self.workflow, own).step
        cancel = self.method_at(own)
        request = build_cancel(cancel, payment_id)
        payload = {
            **self.about(step, own),
            "cancels_payment": True,
            "input": values.to_json(cancel.request.FromString(request)),
            "method": cancel.path,
            "service": cancel.service,
            "key": payment_id,
            "request": b64encode(request).decode(),
        }
        self.add(RecordKind.STEP_INTENT, own, payload, attempt=1)

    def failed_refusal(self) -> tuple[RunStatus, str] | None:
        """Who was told that a run is cancelled pays under a new id: it must be true."""
        for step in self.state.steps.values():
            if not step.cancels_payment or step.phase is not Phase.ENDED:
                continue
            if step.status is StepStatus.FAILED:
                return RunStatus.NEEDS_ATTENTION, f"{step.path}: {step.error}"
            payment = (step.reply or {}).get("payment") or {}
            if step.status is StepStatus.SUCCEEDED and payment.get("state") != CANCELLED:
                reason = f"{step.path}: {outcome.NOT_SENT} {payment.get('state')}"
                return RunStatus.NEEDS_ATTENTION, reason
        return None
