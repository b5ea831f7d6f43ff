"""The privileges that a run may use: those of its caller when the run started.

They are recorded with the start: a later change of the trust policy affects later runs only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import Reason
from services.orchestrator.definition.workflow import Workflow
from services.orchestrator.engine.model import StepError

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Call
    from services.orchestrator.engine.model import RunState


def refusal(state: RunState, path: str, call: Call) -> StepError | None:
    """Returns why the run may not make the call, or None if it may.

    A call with a compensation needs the privileges of both, so that it can be taken back.
    """
    if state.allowed_privileges is None:
        return None
    for part in filter(None, (call, call.compensate)):
        runs = part.operation.runs
        if not isinstance(runs, Workflow) and runs.privilege not in state.allowed_privileges:
            message = (
                f"{path}: {part.operation.name} needs {runs.privilege!r}, and runs that"
                f" {state.started_by} starts may not use it; nothing was sent"
            )
            return StepError("PERMISSION_DENIED", Reason.PERMISSION_NOT_GRANTED, message)
    return None
