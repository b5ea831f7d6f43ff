"""The end of a cancelled run: what it did not pay is refused for ever by who would have paid it.

Nobody can ask for such a payment under its id any more, and who looks it up is told so. It is a
call like any other, ``pay/cancel``: journalled, tried again, parked while its service is away.
"""

from __future__ import annotations

from base64 import b64encode

from services.orchestrator.definition import values
from services.orchestrator.engine import outcome, payments, step_path
from services.orchestrator.engine.compensation import Compensation
from services.orchestrator.engine.model import Phase, RunStatus, StepStatus
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.request import build_cancel

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
