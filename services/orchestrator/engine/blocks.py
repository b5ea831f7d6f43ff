"""Steps with steps inside: how far those have come, and what becomes of the step around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.templates import UnresolvedPathError, resolve
from services.orchestrator.definition.workflow import (
    Approval,
    Call,
    ForEach,
    Parallel,
    Step,
    Switch,
    WaitFor,
    Workflow,
)
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.interpreter import Interpreter, Progress
from services.orchestrator.engine.model import ItemsProgress, Phase, StepError
from services.orchestrator.engine.records import PayloadTooLargeError, RecordKind
from services.orchestrator.engine.scope import ITEMS

if TYPE_CHECKING:
    from services.orchestrator.engine.model import StepState


class Blocks(Interpreter):
    __slots__ = ()

    def enter(self, step: Step, path: str) -> Progress:
        tolerates = isinstance(step.action, ForEach) and step.action.continues_on_error
        known = self.state.steps[path]
        handling = bool(known.failure_scope)
        if path in self.state.failed_children and (handling or not tolerates):
            way = Progress.BROKEN
        elif handling:
            way = self.walk(step.handling, f"{path}/{step_path.ON_ERROR}/")
            if way in (Progress.DONE, Progress.OVER):
                self.add(RecordKind.STEP_HANDLED, path, {})
        else:
            way = self._go_on(step, path, known)
        if way is Progress.BROKEN and self.ending is None:
            self._break_off(path)
            return Progress.DONE
        return way

    def _go_on(self, step: Step, path: str, known: StepState) -> Progress:
        match step.action:
            case Call(operation) if isinstance(operation.runs, Workflow):
                return self._enter_workflow(step, path, operation.runs)
            case Switch(cases):
                way = self.walk(cases[known.input["case"]].steps, f"{path}/")
                if way in (Progress.DONE, Progress.OVER):
                    self.finish_own(path, {})
                return way
            case Parallel() as parallel:
                return self._enter_parallel(parallel, path)
            case ForEach() as each:
                return self._enter_each(each, path, known)
            case WaitFor() as wait:
                self.take_what_came(wait, path, known)
            case Approval() as asked:
                self.count(asked, path, known)
            case _:
                pass
        return Progress.DONE

    # A workflow.

    def _enter_workflow(self, step: Step, path: str, inner: Workflow) -> Progress:
        way = self.walk(inner.steps, f"{path}/")
        if way is Progress.OVER and self.ended_inside[0] != "succeeded":
            outcome, reason = self.ended_inside
            message = f"{inner.id} ended as {outcome}: {reason}"
            self.end_call(path, StepError("FAILED_PRECONDITION", "", message))
        elif way in (Progress.DONE, Progress.OVER):
            self._finish_workflow(step, path, inner)
        return Progress.BROKEN if way is Progress.BROKEN else Progress.DONE

    def _finish_workflow(self, step: Step, path: str, inner: Workflow) -> None:
        """Of an operation the reply is that to its last step; was that skipped, so is the step."""
        last = self.state.steps.get(f"{path}/{inner.steps[-1].id}")
        if isinstance(step.action, Call) and step.action.operation.names_outputs:
            reply = {**dict.fromkeys(inner.outputs), **(last.output if last else {})}
            self.finish_step(path, reply, [])
        elif last is None or last.reply is None:
            reason, condition = (last.skip_reason, last.condition) if last else ("", None)
            self.skip_without_children(step, path, reason, condition=condition)
        else:
            self.finish_step(path, last.reply, [])

    # Branches.

    def _enter_parallel(self, parallel: Parallel, path: str) -> Progress:
        under = 0
        for name, steps in parallel.branches.items():
            if under >= parallel.max_concurrency:
                return Progress.UNDER
            way = self.walk(steps, f"{path}/")
            if self.ending is not None or way is Progress.BROKEN:
                return way
            if way is Progress.DONE and parallel.first:
                self._leave_others(parallel, path, name)
                self.finish_own(path, {"first": name})
                return Progress.DONE
            under += way is Progress.UNDER
        if not under:
            self.finish_own(path, {})
        return Progress.DONE

    def _leave_others(self, parallel: Parallel, path: str, first: str) -> None:
        reason = f"{first} was first in {path}"
        for name, steps in parallel.branches.items():
            for step in steps if name != first else ():
                self._leave(step, f"{path}/{step.id}", reason)

    def _leave(self, step: Step, path: str, reason: str) -> None:
        """Whatever is under way in it is given up: it changes nothing."""
        known = self.state.steps.get(path)
        if known is None:
            self.skip(step, path, reason)
        elif known.phase is not Phase.ENDED:
            self._leave_inside(path, reason)
            self.leave(path, reason)

    def leave(self, path: str, reason: str, **more: Any) -> None:
        self.skip_without_children(step_path.locate(self.workflow, path).step, path, reason, **more)

    def _leave_inside(self, path: str, reason: str) -> None:
        below = [step for step in self.state.steps.values() if step_path.is_below(step.path, path)]
        for inner in reversed(below):
            if inner.phase is not Phase.ENDED:
                self.leave(inner.path, reason)

    # Items.

    def _enter_each(self, each: ForEach, path: str, known: StepState) -> Progress:
        count, items = len(known.input[ITEMS]), self.state.items.setdefault(path, ItemsProgress())
        for index in items.next(count, each.max_concurrency):
            way = self.walk(each.steps, f"{path}[{index}]/")
            if self.ending is not None or (way is Progress.BROKEN and not each.continues_on_error):
                return way
            items.mark(index, in_flight=way is Progress.UNDER)
        if not items.in_flight:
            self._collect_all(each, path, count)
        return Progress.DONE

    def _collect_all(self, each: ForEach, path: str, count: int) -> None:
        ways = [self.walk(each.steps, f"{path}[{index}]/") for index in range(count)]
        try:
            results = [
                None if way is Progress.BROKEN else self._collect(each, path, at)
                for at, way in enumerate(ways)
            ]
            self.finish_own(path, {"results": results, "failed": ways.count(Progress.BROKEN)})
        except (UnresolvedPathError, PayloadTooLargeError) as error:
            message = f"results of {path}: collect.{error}"
            self.end_call(path, StepError("INVALID_ARGUMENT", "", message))

    def _collect(self, each: ForEach, path: str, index: int) -> Any:
        return resolve(each.collect, self.seen(f"{path}[{index}]/{each.steps[-1].id}"))

    # What fails with a step inside it.

    def _break_off(self, path: str) -> None:
        """Begin nothing more in the step, and fail it once nothing in it is under way."""
        child = self.state.steps[self.state.failed_children[path]]
        under = [step for step in self.state.in_flight if step_path.is_below(step.path, path)]
        reason = f"{child.failed_step or child.path} failed"
        for step in under:
            if can_be_left(step):
                self.leave(step.path, reason)
        if any(step.path in self.state.active for step in under):
            return
        self._leave_inside(path, reason)
        assert child.error is not None  # noqa: S101  (it failed)
        handled = bool(self.state.steps[path].failure_scope)
        self.end_call(path, child.error, at=child.failed_step or child.path, handled=handled)


def can_be_left(step: StepState) -> bool:
    """Nothing depends on how it ends: it changes nothing, or has not been sent."""
    if outcome.winds_up(step) or step.phase is Phase.CANCELLING:
        return False
    return step.effect == "READ" or (step.phase is not Phase.CALL and not step.uncertain)
