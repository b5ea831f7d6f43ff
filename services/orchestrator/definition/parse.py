"""The shape of a definition: which keys there are, and what kind of value each holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from services.orchestrator.definition.faults import DefinitionInvalid
from services.orchestrator.definition.shape import Shape, is_id, not_an_id
from services.orchestrator.definition.workflow import AS_THE_ENGINE_DOES, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.orchestrator.definition.document import Document, Pointer

MAX_STEPS = 100  # in a list
MAX_NAME = 200  # characters
MAX_BRANCHES = 32  # of a switch or a parallel
MAX_CONCURRENCY = 64
MAX_ATTEMPTS = 1000
OUTCOMES = ("succeeded", "failed", "refused")

# What makes a step of a kind, and the keys it then may have besides id and condition.
CALL = ("protocol", "operation", "input_mapping", "output_mapping")
CALL_OPTIONS = ("retry", "timeout", "on_error", "compensate")
KINDS = ("set", "switch", "wait", "wait_for", "parallel", "for_each", "end")
SIGNALS = ("signal", "any", "all")
RETRY = ("max_attempts", "backoff", "max_delay", "jitter", "max_duration", "errors")


@dataclass(frozen=True, slots=True)
class RawCall:
    pointer: Pointer
    protocol: str
    operation: str
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]
    retry: Retry = AS_THE_ENGINE_DOES
    timeout_us: int | None = None
    catches: frozenset[str] | None = None
    compensate: RawCall | None = None


@dataclass(frozen=True, slots=True)
class RawSet:
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawSwitch:
    pass


@dataclass(frozen=True, slots=True)
class RawWait:
    duration_us: int | None
    until: str | None


@dataclass(frozen=True, slots=True)
class RawWaitFor:
    signals: tuple[str, ...]
    all: bool
    correlation: str | None
    timeout_us: int | None
    may_end: bool


@dataclass(frozen=True, slots=True)
class RawParallel:
    first: bool
    max_concurrency: int


@dataclass(frozen=True, slots=True)
class RawForEach:
    items: Any
    collect: dict[str, Any]
    max_concurrency: int
    tolerates: bool


@dataclass(frozen=True, slots=True)
class RawEnd:
    outcome: str
    reason: str


RawAction: TypeAlias = (
    "RawCall | RawSet | RawSwitch | RawWait | RawWaitFor | RawParallel | RawForEach | RawEnd"
)


@dataclass(frozen=True, slots=True)
class RawBlock:
    """Steps inside a step: a case, a branch, what happens to each item or after an error."""

    pointer: Pointer
    name: str
    when: str | None
    steps: tuple[RawStep, ...]


@dataclass(frozen=True, slots=True)
class RawStep:
    pointer: Pointer
    id: str
    condition: str | None
    action: RawAction
    blocks: tuple[RawBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class RawWorkflow:
    id: str
    name: str
    steps: tuple[RawStep, ...]
    deadline_us: int | None = None


def parse_workflow(document: Document) -> RawWorkflow:
    """DefinitionInvalid with everything that is out of shape."""
    parser = _Parser(document)
    workflow = parser.workflow()
    if parser.faults:
        raise DefinitionInvalid(sorted(parser.faults))
    return workflow


def all_raw(steps: Iterable[RawStep]) -> Iterator[RawStep]:
    """These and all inside them, in the order of the text."""
    for step in steps:
        yield step
        for block in step.blocks:
            yield from all_raw(block.steps)


class _Parser(Shape):
    def workflow(self) -> RawWorkflow:
        top = self.object((), self.document.value)
        self.keys((), top, required=("id", "name", "steps"), optional=("deadline",))
        name = self.text(("name",), top)
        if len(name) > MAX_NAME:
            self.fault(("name",), f"longer than {MAX_NAME} characters")
        id = self.id(("id",), top)
        steps = self._steps(("steps",), top)
        self._must_differ(steps)
        return RawWorkflow(id, name, steps, self.duration(("deadline",), top))

    def _must_differ(self, steps: tuple[RawStep, ...]) -> None:
        seen: set[str] = set()
        for step in all_raw(steps):
            if step.id and step.id in seen:
                self.fault((*step.pointer, "id"), f"another step is called {step.id}")
            seen.add(step.id)

    def _steps(self, pointer: Pointer, parent: dict[str, Any]) -> tuple[RawStep, ...]:
        name = str(pointer[-1])
        raw = parent.get(name, [])
        if not isinstance(raw, list) or not (name not in parent or 1 <= len(raw) <= MAX_STEPS):
            self.fault(pointer, f"must be a list of 1 to {MAX_STEPS} steps")
            return ()
        return tuple(self._step((*pointer, at), step) for at, step in enumerate(raw))

    def _step(self, pointer: Pointer, value: Any) -> RawStep:
        step = self.object(pointer, value)
        condition = self.text((*pointer, "condition"), step) if "condition" in step else None
        kind = next((kind for kind in KINDS if kind in step), None)
        if kind is None:
            return self._call_step(pointer, step, condition)
        self.keys(pointer, step, required=("id", kind), optional=("condition",))
        id = self.id((*pointer, "id"), step)
        where = (*pointer, kind)
        blocks: tuple[RawBlock, ...] = ()
        action: RawAction
        match kind:
            case "set":
                action = self._set(where, step)
            case "switch":
                action, blocks = RawSwitch(), self._cases(where, step)
            case "wait":
                action = self._wait(where, step)
            case "wait_for":
                action = self._wait_for(where, step)
            case "parallel":
                action, blocks = self._parallel(where, step)
            case "for_each":
                action, blocks = self._for_each(where, step)
            case _:
                action = self._end(where, step)
        return RawStep(pointer, id, condition, action, blocks)

    def _call_step(self, pointer: Pointer, step: dict[str, Any], condition: str | None) -> RawStep:
        self.keys(pointer, step, required=("id", *CALL), optional=("condition", *CALL_OPTIONS))
        id = self.id((*pointer, "id"), step)
        handler = (*pointer, "on_error")
        blocks: tuple[RawBlock, ...] = ()
        catches = None
        if "on_error" in step:
            caught = self.member(handler, step)
            self.keys(handler, caught, optional=("errors", "steps"))
            catches = self.errors((*handler, "errors"), caught)
            if "steps" in caught:
                steps = self._steps((*handler, "steps"), caught)
                blocks = (RawBlock(handler, "on_error", None, steps),)
        return RawStep(pointer, id, condition, self._call(pointer, step, catches), blocks)

    def _call(
        self, pointer: Pointer, call: dict[str, Any], catches: frozenset[str] | None = None
    ) -> RawCall:
        outputs = self.member((*pointer, "output_mapping"), call)
        self.names((*pointer, "output_mapping"), outputs)
        undo = (*pointer, "compensate")
        compensate = None
        if "compensate" in call:
            given = self.member(undo, call)
            self.keys(undo, given, required=CALL[:3], optional=("retry", "timeout"))
            compensate = self._call(undo, given)
        return RawCall(
            pointer,
            protocol=self.text((*pointer, "protocol"), call),
            operation=self.text((*pointer, "operation"), call),
            input_mapping=self.member((*pointer, "input_mapping"), call),
            output_mapping=outputs,
            retry=self._retry((*pointer, "retry"), call),
            timeout_us=self.duration((*pointer, "timeout"), call),
            catches=catches,
            compensate=compensate,
        )

    def _retry(self, pointer: Pointer, call: dict[str, Any]) -> Retry:
        if "retry" not in call:
            return AS_THE_ENGINE_DOES
        given = self.member(pointer, call)
        self.keys(pointer, given, optional=RETRY)
        return Retry(
            max_attempts=self.integer((*pointer, "max_attempts"), given, 1, MAX_ATTEMPTS),
            backoff_us=self.duration((*pointer, "backoff"), given),
            max_delay_us=self.duration((*pointer, "max_delay"), given),
            jitter=self._fraction((*pointer, "jitter"), given),
            max_duration_us=self.duration((*pointer, "max_duration"), given),
            errors=self.errors((*pointer, "errors"), given),
        )

    def _fraction(self, pointer: Pointer, parent: dict[str, Any]) -> float | None:
        value = parent.get(str(pointer[-1]))
        if str(pointer[-1]) not in parent:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        self.fault(pointer, "must be a number from 0 to 1")
        return None

    def _set(self, pointer: Pointer, step: dict[str, Any]) -> RawSet:
        values = self.member(pointer, step)
        self.names(pointer, values)
        return RawSet(values)

    def _cases(self, pointer: Pointer, step: dict[str, Any]) -> tuple[RawBlock, ...]:
        raw = step["switch"]
        if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_BRANCHES:
            self.fault(pointer, f"must be a list of 1 to {MAX_BRANCHES} cases")
            return ()
        blocks = []
        for at, item in enumerate(raw):
            where = (*pointer, at)
            case = self.object(where, item)
            otherwise = at > 0 and at == len(raw) - 1 and "when" not in case
            self.keys(where, case, required=("steps",) if otherwise else ("when", "steps"))
            when = None if otherwise else self.text((*where, "when"), case)
            steps = self._steps((*where, "steps"), case)
            blocks.append(RawBlock(where, str(at), when, steps))
        return tuple(blocks)

    def _wait(self, pointer: Pointer, step: dict[str, Any]) -> RawWait:
        given = self.member(pointer, step)
        self.keys(pointer, given, optional=("duration", "until"))
        if isinstance(step["wait"], dict) and len(given.keys() & {"duration", "until"}) != 1:
            self.fault(pointer, "needs duration or until, one of them")
        until = self.text((*pointer, "until"), given) if "until" in given else None
        return RawWait(self.duration((*pointer, "duration"), given), until)

    def _wait_for(self, pointer: Pointer, step: dict[str, Any]) -> RawWaitFor:
        given = self.member(pointer, step)
        self.keys(pointer, given, optional=(*SIGNALS, "correlation", "timeout", "on_timeout"))
        kinds = [kind for kind in SIGNALS if kind in given]
        if isinstance(step["wait_for"], dict) and len(kinds) != 1:
            self.fault(pointer, f"needs one of {', '.join(SIGNALS)}")
        names: tuple[str, ...] = ()
        if "signal" in given:
            names = (self.id((*pointer, "signal"), given),)
        elif kinds:
            names = self._signal_names((*pointer, kinds[0]), given[kinds[0]])
        where = (*pointer, "on_timeout")
        may_end = self.word(where, given, ("fail", "continue"), "fail") == "continue"
        if may_end and "timeout" not in given:
            self.fault(where, "needs a timeout")
        correlation = (*pointer, "correlation")
        return RawWaitFor(
            names,
            "all" in given,
            self.text(correlation, given) if "correlation" in given else None,
            self.duration((*pointer, "timeout"), given),
            may_end,
        )

    def _signal_names(self, pointer: Pointer, value: Any) -> tuple[str, ...]:
        listed = value if isinstance(value, list) else []
        if not 2 <= len(set(map(str, listed))) == len(listed) <= MAX_BRANCHES:
            self.fault(pointer, f"must be a list of 2 to {MAX_BRANCHES} different names")
        for at, name in enumerate(listed):
            if not isinstance(name, str) or not is_id(name):
                self.fault((*pointer, at), not_an_id(str(name)))
        return tuple(map(str, listed))

    def _parallel(
        self, pointer: Pointer, step: dict[str, Any]
    ) -> tuple[RawParallel, tuple[RawBlock, ...]]:
        given = self.member(pointer, step)
        self.keys(pointer, given, required=("branches",), optional=("wait_for", "max_concurrency"))
        inner = (*pointer, "branches")
        branches = self.member(inner, given)
        self.names(inner, branches)
        if "branches" in given and not 2 <= len(branches) <= MAX_BRANCHES:
            self.fault(inner, f"must have 2 to {MAX_BRANCHES} branches")
        blocks = tuple(
            RawBlock((*inner, name), name, None, self._steps((*inner, name), branches))
            for name in branches
        )
        first = self.word((*pointer, "wait_for"), given, ("all", "first"), "all") == "first"
        return RawParallel(first, self._concurrency(pointer, given)), blocks

    def _for_each(
        self, pointer: Pointer, step: dict[str, Any]
    ) -> tuple[RawForEach, tuple[RawBlock, ...]]:
        given = self.member(pointer, step)
        optional = ("collect", "max_concurrency", "on_item_error")
        self.keys(pointer, given, required=("items", "steps"), optional=optional)
        collect = self.member((*pointer, "collect"), given)
        self.names((*pointer, "collect"), collect)
        words = ("fail", "continue")
        tolerates = self.word((*pointer, "on_item_error"), given, words, "fail") == "continue"
        block = RawBlock(pointer, "items", None, self._steps((*pointer, "steps"), given))
        concurrency = self._concurrency(pointer, given)
        return RawForEach(given.get("items"), collect, concurrency, tolerates), (block,)

    def _concurrency(self, pointer: Pointer, given: dict[str, Any]) -> int:
        where = (*pointer, "max_concurrency")
        return self.integer(where, given, 1, MAX_CONCURRENCY) or MAX_CONCURRENCY

    def _end(self, pointer: Pointer, step: dict[str, Any]) -> RawEnd:
        given = self.member(pointer, step)
        self.keys(pointer, given, required=("outcome",), optional=("reason",))
        outcome = self.word((*pointer, "outcome"), given, OUTCOMES, OUTCOMES[0])
        return RawEnd(outcome, self.text((*pointer, "reason"), given))
