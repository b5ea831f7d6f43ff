"""The interpreter of a workflow's steps: begins each as soon as the steps before it have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.templates import UnresolvedPathError, resolve
from services.orchestrator.definition.workflow import (
    MAX_ITEMS,
    MAX_STEPS_PER_RUN,
    Approval,
    Call,
    Emit,
    End,
    ForEach,
    Parallel,
    Set,
    Step,
    Switch,
    Wait,
    WaitFor,
    all_steps,
)
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.blocks import Progress
from services.orchestrator.engine.model import FailureScope, Phase, StepError, StepStatus
from services.orchestrator.engine.records import PayloadTooLargeError, RecordKind
from services.orchestrator.engine.scope import ITEMS, explain

if TYPE_CHECKING:
    from services.orchestrator.definition.cel import Condition
    from services.orchestrator.engine.blocks import Blocks
    from services.orchestrator.engine.calls import Calls
    from services.orchestrator.engine.model import RunStatus, StepState
    from services.orchestrator.engine.record_writer import RecordWriter
    from services.orchestrator.engine.waits import Waits

_ADVANCES = (
    Phase.AWAITING_EVENT,
    Phase.CHILDREN,
)  # advanced by other steps or by messages


class Interpreter:
    """Walks the steps of the workflow, and delegates what each one does."""

    __slots__ = ("_blocks", "_calls", "_ending", "_waits", "_writer")

    def __init__(self, writer: RecordWriter, calls: Calls, waits: Waits, blocks: Blocks) -> None:
        self._writer = writer
        self._calls = calls
        self._waits = waits
        self._blocks = blocks
        self._ending: tuple[RunStatus, str] | None = None  # decided in this transition

    def advance(self) -> tuple[RunStatus, str] | None:
        """Begins every step that can begin now. Returns how the run ends, if it does."""
        workflow, self._ending = self._writer.workflow, None
        if self._walk(workflow.steps, "") is Progress.DONE:
            return outcome.of_last_step(workflow, self._writer.state)
        return self._ending

    def _walk(self, steps: tuple[Step, ...], prefix: str) -> Progress:
        """Begins what can begin in the list of steps, whose paths start with ``prefix``."""
        completed = self._writer.state.completed_prefix
        first = prefix + steps[0].id
        for at in range(completed.get(first, 0), len(steps)):
            progress = self._advance_step(steps[at], prefix + steps[at].id)
            if progress is not Progress.DONE:
                return progress
            completed[first] = at + 1
        return Progress.DONE

    def _advance_step(self, step: Step, path: str) -> Progress:
        """Begins the step, or advances what is inside it."""
        steps = self._writer.state.steps
        if path not in steps:
            self.begin(step, path)
        known, progress = steps[path], Progress.DONE
        if known.phase in _ADVANCES:
            progress = self._advance_open(step, path, known)
            if progress is Progress.RUN_ENDED:
                return progress
        if known.phase is not Phase.ENDED:
            return Progress.PENDING
        if known.status in (StepStatus.FAILED, StepStatus.UNCERTAIN):
            return self._after_failure(known, progress)
        if isinstance(step.action, End) and known.status is StepStatus.SUCCEEDED:
            return self._end_workflow(step.action, path, known.input.get("reason", ""))
        return progress

    def _advance_open(self, step: Step, path: str, known: StepState) -> Progress:
        """Advances a step that waits for events, or has steps inside it."""
        scope, progress = known.failure_scope, Progress.DONE
        if known.phase is Phase.AWAITING_EVENT:
            self._waits.advance(step.action, path, known)
        else:
            progress = self._blocks.advance(step, path, self._walk)
        if known.phase is Phase.CHILDREN and known.failure_scope != scope:
            return self._blocks.advance(step, path, self._walk)  # it failed: on_error begins
        return progress

    def _after_failure(self, step: StepState, progress: Progress) -> Progress:
        if step.failure_scope == FailureScope.OUTER:
            return Progress.FAILED
        if step.failure_scope:
            return progress
        failed = step.failed_step or step.path
        self._ending = outcome.of_failure(self._writer.workflow, self._writer.state, failed)
        return Progress.RUN_ENDED

    def _end_workflow(self, end: End, path: str, reason: str) -> Progress:
        """Ends the run, or the workflow inside the run that the step belongs to."""
        workflow = self._writer.workflow
        if step_path.locate(workflow, path).prefix:
            return self._blocks.end_workflow(end.outcome, reason)
        self._ending = outcome.of_end(workflow, self._writer.state, end.outcome, reason)
        return Progress.RUN_ENDED

    # The beginning of a step.

    def begin(self, step: Step, path: str) -> None:
        """Begins the step, skips it or fails it: afterwards the state has it."""
        scope = self._writer.scope_at(path)
        try:
            condition = self._evaluate_condition(step, path, scope)
            if condition is None:
                return
            self._begin_action(step, path, scope, condition)
        except (UnresolvedPathError, values.MismatchError) as error:
            message = f"input of {path}: {explain(step, error, scope)}"
            self._writer.fail(path, StepError("INVALID_ARGUMENT", "", message))
        except PayloadTooLargeError as error:
            message = f"input of {path}: {error}"
            self._writer.fail(path, StepError("INVALID_ARGUMENT", "", message))

    def _evaluate_condition(
        self, step: Step, path: str, scope: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Returns what to record of a condition that holds.

        Returns None if it does not hold or cannot be evaluated; then the step has ended.
        """
        if step.condition is None:
            return {}
        verdict, holds, reason = _evaluate(step.condition, scope)
        if holds:
            return {"condition": verdict}
        if holds is None:
            message = f"{reason}: condition of {path} cannot be judged"
            error = StepError("FAILED_PRECONDITION", "", message)
            self._writer.fail(path, error, condition=verdict)
        else:
            message = f"{reason}: condition of {path} is false"
            self._writer.skip(step, path, message, condition=verdict)
        return None

    def _begin_action(
        self, step: Step, path: str, scope: dict[str, Any], condition: dict[str, Any]
    ) -> None:
        writer = self._writer
        metadata = writer.metadata(step, path)
        if condition:
            metadata = {**metadata, **condition}
        match step.action:
            case Call() as call:
                self._calls.begin(call, path, scope, metadata, condition)
            case Set(given):
                writer.complete_at_once(path, metadata, {}, resolve(given, scope))
            case End(reason=template):
                reason = resolve(template, scope)
                if not isinstance(reason, str):
                    raise values.MismatchError(("reason",), "a text")
                writer.complete_at_once(path, metadata, {"reason": reason}, {})
            case Switch() as switch:
                self._choose(step, switch, path, scope, metadata)
            case Wait() as wait:
                self._waits.start_timer(wait, path, scope, metadata)
            case WaitFor() as wait:
                self._waits.start_wait_for(wait, path, scope, metadata)
            case Emit() as emit:
                self._waits.emit(emit, path, scope, metadata)
            case Approval() as approval:
                self._waits.ask_approval(approval, path, scope, metadata)
            case ForEach(items=items) as each:
                input = {ITEMS: self._items(each, resolve(items, scope))}
                writer.add(RecordKind.STEP_INTENT, path, {**metadata, "input": input}, attempt=1)
            case Parallel():
                writer.add(RecordKind.STEP_INTENT, path, {**metadata, "input": {}}, attempt=1)

    def _choose(
        self, step: Step, switch: Switch, path: str, scope: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        """Chooses the first case that holds, and skips the steps of all others."""
        verdicts: list[dict[str, Any]] = []
        reasons: list[str] = []
        chosen = None
        for at, case in enumerate(switch.cases):
            if case.when is None:
                chosen = at
                break
            verdict, holds, reason = _evaluate(case.when, scope)
            verdicts.append(verdict)
            if holds is None:
                message = f"{reason}: a case of {path} cannot be judged"
                self._writer.fail(path, StepError("FAILED_PRECONDITION", "", message))
                return
            if holds:
                chosen = at
                break
            reasons.append(reason)
        why = " and ".join(reasons) or "an earlier case holds"
        if chosen is None:
            self._writer.skip(step, path, f"{why}: no case of {path} holds")
            return
        payload = {**metadata, "input": {"case": chosen, "judged": verdicts}}
        self._writer.add(RecordKind.STEP_INTENT, path, payload, attempt=1)
        for at, case in enumerate(switch.cases):
            for other in case.steps if at != chosen else ():
                message = f"{why}: {path} took another case"
                self._writer.skip(other, f"{path}/{other.id}", message)

    def _items(self, each: ForEach, items: Any) -> list[Any]:
        """Returns the items. Raises MismatchError if they are no list, or too many."""
        if not isinstance(items, list) or len(items) > MAX_ITEMS:
            raise values.MismatchError(("items",), f"a list of at most {MAX_ITEMS}")
        per_item = sum(1 for _ in all_steps(each.steps))
        if len(self._writer.state.steps) + len(items) * per_item > MAX_STEPS_PER_RUN:
            expected = f"so few that the run has at most {MAX_STEPS_PER_RUN} steps"
            raise values.MismatchError(("items",), expected)
        return items


def _evaluate(
    condition: Condition, scope: dict[str, Any]
) -> tuple[dict[str, Any], bool | None, str]:
    """Returns what to record, whether the condition holds (None if unknown), and why not."""
    verdict = condition.evaluate(scope)
    recorded = {
        "expression": condition.text,
        "verdict": bool(verdict.holds),
        "operands": verdict.operands,
    }
    return recorded, verdict.holds, verdict.reason
