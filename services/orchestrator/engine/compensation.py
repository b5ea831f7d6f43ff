"""Sagas: what completed steps of a failed run left behind is taken back, the last one first."""

from __future__ import annotations

from services.orchestrator.definition.workflow import Call
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.blocks import Blocks
from services.orchestrator.engine.model import Phase, RunStatus, StepStatus

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
