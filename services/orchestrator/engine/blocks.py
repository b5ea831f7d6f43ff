"""Steps with steps inside: branches, cases, items and workflows, and what ends with them."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.definition.templates import ResolvedSize, UnresolvedPathError, resolve
from services.orchestrator.definition.workflow import (
    Call,
    ForEach,
    Parallel,
    Step,
    Switch,
    Workflow,
)
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.model import READ, ItemsProgress, Phase, StepError
from services.orchestrator.engine.records import MAX_PAYLOAD_BYTES, PayloadTooLargeError, RecordKind
from services.orchestrator.engine.scope import ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.engine.calls import Calls
    from services.orchestrator.engine.model import StepState
    from services.orchestrator.engine.record_writer import RecordWriter


class Progress(Enum):
    """The progress of a list of steps."""

    PENDING = "a step in it has not ended"
    DONE = "every step has ended"
    FAILED = "a step failed, and the step around the list fails with it"
    ENDED = "an end step in it ended the workflow inside the run that it belongs to"
    RUN_ENDED = "a step in it decided how the run ends"


# Begins what can begin in a list of steps whose paths start with the prefix.
Walk: TypeAlias = "Callable[[tuple[Step, ...], str], Progress]"


class Blocks:
    """Advances the steps inside a step, and completes or fails the step with them.

    ``walk`` is passed to each call, as the interpreter and its blocks call each other.
    """

    __slots__ = ("_calls", "_inner_end", "_writer")

    def __init__(self, writer: RecordWriter, calls: Calls) -> None:
        self._writer = writer
        self._calls = calls
        self._inner_end = ("", "")  # outcome and reason of the last end inside a workflow

    def end_workflow(self, outcome: str, reason: str) -> Progress:
        """Ends the workflow that runs inside the run and that the current list belongs to."""
        self._inner_end = outcome, reason
        return Progress.ENDED

    def advance(self, step: Step, path: str, walk: Walk) -> Progress:
        """Advances the steps inside the step, or those of its on_error."""
        state = self._writer.state
        known = state.steps[path]
        handling = bool(known.failure_scope)
        continues = isinstance(step.action, ForEach) and step.action.continues_on_error
        if path in state.failed_children and (handling or not continues):
            progress = Progress.FAILED
        elif handling:
            progress = walk(step.handling, f"{path}/{step_path.ON_ERROR}/")
            if progress in (Progress.DONE, Progress.ENDED):
                self._writer.add(RecordKind.STEP_HANDLED, path, {})
        else:
            progress = self._advance_children(step, path, known, walk)
        if progress is Progress.FAILED:
            self._fail_with_child(path)
            return Progress.DONE
        return progress

    def _advance_children(self, step: Step, path: str, known: StepState, walk: Walk) -> Progress:
        match step.action:
            case Call() as call if isinstance(call.operation.runs, Workflow):
                return self._advance_workflow(step, call, path, call.operation.runs, walk)
            case Switch(cases):
                progress = walk(cases[known.input["case"]].steps, f"{path}/")
                if progress in (Progress.DONE, Progress.ENDED):
                    self._writer.complete(path, {})
                return progress
            case Parallel() as parallel:
                return self._advance_branches(parallel, path, walk)
            case ForEach() as each:
                return self._advance_items(each, path, known, walk)
            case _:
                return Progress.DONE

    # A workflow.

    def _advance_workflow(
        self, step: Step, call: Call, path: str, workflow: Workflow, walk: Walk
    ) -> Progress:
        progress = walk(workflow.steps, f"{path}/")
        if progress is Progress.ENDED and self._inner_end[0] != "succeeded":
            outcome, reason = self._inner_end
            message = f"{workflow.id} ended as {outcome}: {reason}"
            self._writer.fail(path, StepError("FAILED_PRECONDITION", "", message))
        elif progress in (Progress.DONE, Progress.ENDED):
            self._complete_workflow(step, call, path, workflow)
        return progress if progress in (Progress.FAILED, Progress.RUN_ENDED) else Progress.DONE

    def _complete_workflow(self, step: Step, call: Call, path: str, workflow: Workflow) -> None:
        """Completes an operation with the reply of its last step, or skips it with that step."""
        last = self._writer.state.steps.get(f"{path}/{workflow.steps[-1].id}")
        if call.operation.names_outputs:
            reply = {**dict.fromkeys(workflow.outputs), **(last.output if last else {})}
            self._calls.complete(call, path, reply, [])
        elif last is None or last.reply is None:
            reason, condition = (last.skip_reason, last.condition) if last else ("", None)
            self._writer.skip_without_children(step, path, reason, condition=condition)
        else:
            self._calls.complete(call, path, last.reply, [])

    # Branches.

    def _advance_branches(self, parallel: Parallel, path: str, walk: Walk) -> Progress:
        pending = 0
        for name, steps in parallel.branches.items():
            if pending >= parallel.max_concurrency:
                return Progress.PENDING
            progress = walk(steps, f"{path}/")
            if progress in (Progress.FAILED, Progress.RUN_ENDED):
                return progress
            if progress is Progress.DONE and parallel.first:
                self._abandon_others(parallel, path, name)
                self._writer.complete(path, {"first": name})
                return Progress.DONE
            pending += progress is Progress.PENDING
        if not pending:
            self._writer.complete(path, {})
        return Progress.DONE

    def _abandon_others(self, parallel: Parallel, path: str, first: str) -> None:
        reason = f"{first} was first in {path}"
        for name, steps in parallel.branches.items():
            for step in steps if name != first else ():
                self._abandon(step, f"{path}/{step.id}", reason)

    def _abandon(self, step: Step, path: str, reason: str) -> None:
        """Skips a step that only reads, with all steps inside it, begun or not."""
        known = self._writer.state.steps.get(path)
        if known is None:
            self._writer.skip(step, path, reason)
        elif known.phase is not Phase.ENDED:
            self._abandon_children(path, reason)
            self._writer.abandon(path, reason)

    def _abandon_children(self, path: str, reason: str) -> None:
        steps = self._writer.state.steps.values()
        children = [step for step in steps if step_path.is_below(step.path, path)]
        for child in reversed(children):
            if child.phase is not Phase.ENDED:
                self._writer.abandon(child.path, reason)

    # Items.

    def _advance_items(self, each: ForEach, path: str, known: StepState, walk: Walk) -> Progress:
        count = len(known.input[ITEMS])
        items = self._writer.state.items.setdefault(path, ItemsProgress())
        for index in items.next(count, each.max_concurrency):
            progress = walk(each.steps, f"{path}[{index}]/")
            if progress is Progress.RUN_ENDED:
                return progress
            if progress is Progress.FAILED and not each.continues_on_error:
                return progress
            items.mark(index, in_flight=progress is Progress.PENDING)
            if self._writer.is_over:  # the next slice walks the item again
                items.dirty.add(index)
                break
        if not items.in_flight:
            self._collect_all(each, path, count, walk)
        return Progress.DONE

    def _collect_all(self, each: ForEach, path: str, count: int, walk: Walk) -> None:
        """Completes a for_each with the result of every item, null for one that failed."""
        ends = [walk(each.steps, f"{path}[{index}]/") for index in range(count)]
        try:
            size = ResolvedSize(MAX_PAYLOAD_BYTES)
            results = [
                None if end is Progress.FAILED else self._collect(each, path, index, size)
                for index, end in enumerate(ends)
            ]
            failed = ends.count(Progress.FAILED)
            self._writer.complete(path, {"results": results, "failed": failed})
        except (UnresolvedPathError, PayloadTooLargeError) as error:
            message = f"results of {path}: collect.{error}"
            self._writer.fail(path, StepError("INVALID_ARGUMENT", "", message))

    def _collect(self, each: ForEach, path: str, index: int, size: ResolvedSize) -> Any:
        last = f"{path}[{index}]/{each.steps[-1].id}"
        return resolve(each.collect, self._writer.scope_at(last), size)

    # The failure of a step inside.

    def _fail_with_child(self, path: str) -> None:
        """Begins nothing more in the step, and fails it once no step inside it is in flight."""
        state = self._writer.state
        child = state.steps[state.failed_children[path]]
        failed_step = child.failed_step or child.path
        in_flight = [step for step in state.in_flight if step_path.is_below(step.path, path)]
        reason = f"{failed_step} failed"
        for step in in_flight:
            if can_be_abandoned(step):
                self._writer.abandon(step.path, reason)
        if any(step.path in state.active for step in in_flight):
            return
        self._abandon_children(path, reason)
        assert child.error is not None  # noqa: S101  (it failed)
        handled = bool(state.steps[path].failure_scope)
        self._writer.fail(path, child.error, failed_step=failed_step, handled=handled)


def can_be_abandoned(step: StepState) -> bool:
    """Returns whether the step leaves no effect if it ends now: it only reads, or sent nothing."""
    if outcome.belongs_to_end(step) or step.phase is Phase.CANCELLING:
        return False
    if step.effect == READ:
        return True
    return step.phase is not Phase.CALL and not step.uncertain
