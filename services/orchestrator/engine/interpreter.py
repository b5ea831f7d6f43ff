"""The interpreter of a workflow's steps: begins each as soon as the steps before it have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mesh.errors import Reason
from services.orchestrator.definition import values
from services.orchestrator.definition.cel_cost import ConditionTooCostlyError
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
from services.orchestrator.engine.record_writer import MAX_RUN_UNITS, MAX_TURN_UNITS
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


TOO_COSTLY = StepError(
    "RESOURCE_EXHAUSTED",
    Reason.RUN_TOO_COSTLY,
    f"the run has recorded and judged too much: at most {MAX_TURN_UNITS:,} bytes before it waits"
    f" for a call, a message or a time, and {MAX_RUN_UNITS:,} bytes in all; pass ids on instead of"
    " texts and lists",
)


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
            if not self._writer.begins_step():
                return Progress.PENDING
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
        if self._writer.units_left() <= 0 and not self._is_owed(step):
            self._writer.fail(path, TOO_COSTLY)
            return
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

    def _is_owed(self, step: Step) -> bool:
        """Returns whether a payment was made, so that the calls after it must not be refused."""
        return isinstance(step.action, Call) and outcome.pivot_made(self._writer.state)

    def _evaluate_condition(
        self, step: Step, path: str, scope: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Returns what to record of a condition that holds.

        Returns None if it does not hold or cannot be evaluated; then the step has ended.
        """
        if step.condition is None:
            return {}
        verdict = _evaluate(step.condition, scope)
        if verdict.holds:
            return verdict.payload
        if verdict.holds is None:
            message = f"{verdict.reason}: condition of {path} cannot be judged"
            error = StepError("FAILED_PRECONDITION", verdict.error, message)
            self._writer.fail(path, error, **verdict.payload)
        else:
            message = f"{verdict.reason}: condition of {path} is false"
            self._writer.skip(step, path, message, **verdict.payload)
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
                output = resolve(given, scope, writer.resolved_size())
                writer.complete_at_once(path, metadata, {}, output)
            case End(reason=template):
                reason = resolve(template, scope, writer.resolved_size())
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
        chosen, units = None, 0
        for at, case in enumerate(switch.cases):
            if case.when is None:
                chosen = at
                break
            verdict = _evaluate(case.when, scope)
            verdicts.append(verdict.recorded)
            units += verdict.units
            if verdict.holds is None:
                message = f"{verdict.reason}: a case of {path} cannot be judged"
                error = StepError("FAILED_PRECONDITION", verdict.error, message)
                more: dict[str, Any] = {"units": units} if units else {}
                self._writer.fail(path, error, **more)
                return
            if verdict.holds:
                chosen = at
                break
            reasons.append(verdict.reason)
        why = " and ".join(reasons) or "an earlier case holds"
        if chosen is None:
            self._writer.skip(step, path, f"{why}: no case of {path} holds")
            return
        payload = {**metadata, "input": {"case": chosen, "judged": verdicts}}
        if units:
            payload["units"] = units + metadata.get("units", 0)
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


class _Verdict(NamedTuple):
    """The result of a condition, as it is recorded."""

    holds: bool | None  # None if it cannot be judged
    reason: str  # why it does not hold
    recorded: dict[str, Any]
    units: int = 0
    error: str = ""  # the reason of the step's failure if it cannot be judged

    @property
    def payload(self) -> dict[str, Any]:
        if self.units:
            return {"condition": self.recorded, "units": self.units}
        return {"condition": self.recorded}


def _evaluate(condition: Condition, scope: dict[str, Any]) -> _Verdict:
    """Evaluates a condition, unless it might cost more than a turn of a run may."""
    try:
        result = condition.evaluate(scope)
    except ConditionTooCostlyError:
        recorded = {"expression": condition.text, "verdict": False, "operands": {}}
        reason = "it might take too long with texts or lists of this size"
        return _Verdict(None, reason, recorded, 0, Reason.CONDITION_TOO_COSTLY)
    recorded = {
        "expression": condition.text,
        "verdict": bool(result.holds),
        "operands": result.operands,
    }
    return _Verdict(result.holds, result.reason, recorded, result.units)
