"""Workflows as the engine runs them: checked, typed, with their operations."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from google.protobuf.message import Message

    from services.orchestrator.definition.cel import Condition
    from services.orchestrator.definition.inputs import Inputs
    from services.orchestrator.definition.types import ValueType


MAX_ITEMS = 1000  # of a for_each
MAX_STEPS_PER_RUN = 20_000  # the steps of each item counted


class Effect(Enum):
    """The effect of a call: none, one that can be taken back, or one that cannot."""

    READ = 1
    REVERSIBLE = 2
    PIVOT = 3


@dataclass(frozen=True, slots=True)
class Method:
    """An RPC that a step calls."""

    path: str  # "/anya.bitcoin.v1.WalletService/SendPayment"
    service: str  # "bitcoin": the peer that serves it
    request: type[Message]
    reply: type[Message]
    effect: Effect
    privilege: str  # that the caller needs: "spend"
    # Makes the service refuse later attempts of a request_id; None if the contract names none.
    cancel: Method | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """An RPC, or a workflow, that a step can name."""

    name: str
    protocol: str
    request: ValueType
    reply: ValueType
    runs: Method | Workflow
    # The reply of a workflow is the outputs of its last step, not the whole reply to that step.
    names_outputs: bool = False

    @property
    def pivots(self) -> int:
        """The number of its calls that cannot be taken back."""
        if isinstance(self.runs, Workflow):
            return self.runs.pivots
        return int(self.runs.effect is Effect.PIVOT)

    @property
    def effect(self) -> Effect:
        """The effect. A workflow that pays is no operation, so a workflow can be taken back."""
        if not isinstance(self.runs, Workflow):
            return self.runs.effect
        return Effect.REVERSIBLE if self.runs.has_effects else Effect.READ


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The retry policy of one call. None: as the engine's policy says."""

    max_attempts: int | None = None
    backoff_us: int | None = None  # before the second attempt; doubles
    max_delay_us: int | None = None
    jitter: float | None = None  # 0 to 1: the random part of a delay
    max_duration_us: int | None = None  # of all attempts together
    # The only errors after which a call is tried again; empty: those of the engine's policy.
    errors: frozenset[str] = frozenset()


DEFAULT_RETRY = Retry()


@dataclass(frozen=True, slots=True)
class Catch:
    """Codes or reasons that do not end the run, empty for all, and the steps that follow them."""

    errors: frozenset[str]
    steps: tuple[Step, ...]

    def takes(self, code: str, reason: str) -> bool:
        """Returns whether an error is one of these."""
        return not self.errors or bool({code, reason} & self.errors)


@dataclass(frozen=True, slots=True)
class Call:
    operation: Operation
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]
    retry: Retry = DEFAULT_RETRY
    timeout_us: int | None = None
    compensate: Call | None = None
    # A template of the id of the payment that it makes or judges; None: the run's payment.
    payment: str | None = None


@dataclass(frozen=True, slots=True)
class Set:
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    when: Condition | None  # None: the case holds if no earlier one does
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Switch:
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    duration_us: int | None
    until: str | None  # a template


@dataclass(frozen=True, slots=True)
class EventPattern:
    """A signal to this run, or an event that any run emits."""

    name: str  # of the signal, or the event's type
    is_event: bool = False

    @property
    def key(self) -> str:
        """The name of its payload among those of other patterns."""
        return self.name.replace(".", "_")


@dataclass(frozen=True, slots=True)
class WaitFor:
    patterns: tuple[EventPattern, ...]
    all: bool  # waits for each of them; otherwise for the first
    correlation: str | None  # a template
    timeout_us: int | None
    continues_on_timeout: bool  # otherwise the step fails

    @property
    def events(self) -> tuple[str, ...]:
        """The types of the events that it waits for."""
        return tuple(one.name for one in self.patterns if one.is_event)


@dataclass(frozen=True, slots=True)
class Emit:
    type: str
    subject: str | None  # a template; None: the event is about the run
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Approval:
    approvers: Any  # a list of templates, or one of a list
    quorum: int
    text: str  # a template
    values: dict[str, Any]
    timeout_us: int | None


@dataclass(frozen=True, slots=True)
class Parallel:
    branches: Mapping[str, tuple[Step, ...]]
    first: bool  # ends with the first branch; otherwise with the last
    max_concurrency: int


@dataclass(frozen=True, slots=True)
class ForEach:
    items: Any  # a template
    steps: tuple[Step, ...]
    collect: dict[str, Any]  # templates, resolved after an item's last step
    max_concurrency: int
    continues_on_error: bool  # a failed item does not fail the step
    count: int | None = None  # of the items, if the definition lists them


@dataclass(frozen=True, slots=True)
class End:
    outcome: str  # "succeeded", "failed" or "refused"
    reason: str  # a template


Action: TypeAlias = (
    "Call | Set | Switch | Wait | WaitFor | Emit | Approval | Parallel | ForEach | End"
)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    id: str
    action: Action
    condition: Condition | None = None
    on_error: Catch | None = None

    @property
    def inner(self) -> tuple[Step, ...]:
        """The steps of its cases, of its branches or for each item."""
        match self.action:
            case Switch(cases):
                return tuple(step for case in cases for step in case.steps)
            case Parallel(branches):
                return tuple(step for steps in branches.values() for step in steps)
            case ForEach():
                return self.action.steps
            case _:
                return ()

    @property
    def handling(self) -> tuple[Step, ...]:
        """The steps that follow its failure."""
        return self.on_error.steps if self.on_error is not None else ()

    @property
    def payment(self) -> str | None:
        """The template of the id of the payment that the step belongs to."""
        return self.action.payment if isinstance(self.action, Call) else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names that later steps can read."""
        match self.action:
            case Call(output_mapping=outputs):
                return tuple(outputs)
            case Set(values):
                return tuple(values)
            case ForEach():
                return ("results", "failed")
            case WaitFor():
                return ("signal", "payload")
            case Approval():
                return ("approved_by", "digest")
            case Parallel(first=True):
                return ("first",)
            case _:
                return ()

    @property
    def pivots(self) -> int:
        """The largest number of calls that cannot be taken back on one way through the step."""
        match self.action:
            case Switch(cases):
                return max(_pivots(case.steps) for case in cases)
            case Call(operation):
                return operation.pivots + _pivots(self.handling)
            case _:
                return _pivots(self.inner) + _pivots(self.handling)


@dataclass(frozen=True, slots=True, eq=False)
class Workflow:
    id: str
    name: str
    hash: str  # SHA-256 of the RFC 8785 form, hex
    steps: tuple[Step, ...]
    inputs: Inputs
    deadline_us: int | None = None  # from the start of a run; None: the engine's
    outputs: Mapping[str, ValueType] = field(default_factory=dict)  # of its last step
    pivots: int = field(init=False, repr=False)  # the most on one way through it
    # Id and hash of every workflow inside this one, innermost first: a run is pinned to them.
    sub_workflow_hashes: Mapping[str, str] = field(init=False, repr=False)
    sub_workflow_ids: tuple[str, ...] = field(init=False, repr=False)  # that its own steps run
    has_effects: bool = field(init=False, repr=False)  # beyond the run itself
    min_steps: int = field(init=False, repr=False)  # of a run in which no step fails
    names_payments: bool = field(init=False, repr=False)  # each by an id in the run's input
    awaits_events: bool = field(init=False, repr=False)  # in a step of it, or of one inside it
    _by_id: dict[str, Step] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pivots", _pivots(self.steps))
        names = any(step.payment is not None for step in all_steps(self.steps))
        object.__setattr__(self, "names_payments", names)
        inside = _inside(self)
        object.__setattr__(self, "sub_workflow_hashes", _hashes(inside))
        object.__setattr__(self, "sub_workflow_ids", _sub_workflow_ids(self.steps))
        awaits = any(inner.awaits_events for inner in inside) or _awaits_events(self.steps)
        object.__setattr__(self, "awaits_events", awaits)
        has_effects = any(map(_has_effect, all_steps(self.steps)))
        object.__setattr__(self, "has_effects", has_effects)
        object.__setattr__(self, "min_steps", sum(map(_min_steps, self.steps)))
        object.__setattr__(self, "_by_id", {step.id: step for step in all_steps(self.steps)})

    def step(self, id: str) -> Step:
        """Returns a step, at any depth: ids differ throughout the definition."""
        return self._by_id[id]


def all_steps(steps: Iterable[Step]) -> Iterator[Step]:
    """Yields the steps and all steps inside them, each before those inside it."""
    for step in steps:
        yield step
        yield from all_steps(step.inner)
        yield from all_steps(step.handling)


def _has_effect(step: Step) -> bool:
    match step.action:
        case Call(operation):
            return operation.effect is not Effect.READ
        case action:
            return isinstance(action, Emit)


def _pivots(steps: Iterable[Step]) -> int:
    return sum(step.pivots for step in steps)


def _sub_workflow_ids(steps: Iterable[Step]) -> tuple[str, ...]:
    calls = (step.action for step in all_steps(steps) if isinstance(step.action, Call))
    names = (call.operation.name for call in calls if call.operation.names_outputs)
    return tuple(dict.fromkeys(names))


def _awaits_events(steps: Iterable[Step]) -> bool:
    actions = [step.action for step in all_steps(steps)]
    return any(isinstance(action, WaitFor) and action.events for action in actions)


def _inside(workflow: Workflow) -> list[Workflow]:
    """Returns the workflows that its own steps run, each once."""
    calls = (step.action for step in all_steps(workflow.steps) if isinstance(step.action, Call))
    runs = (call.operation.runs for call in calls)
    return list({inner.id: inner for inner in runs if isinstance(inner, Workflow)}.values())


def _hashes(inside: Iterable[Workflow]) -> dict[str, str]:
    """Returns id and hash of these workflows and of all inside them, innermost first."""
    found: dict[str, str] = {}
    for inner in inside:
        found |= {id: hash for id, hash in inner.sub_workflow_hashes.items() if id not in found}
        found.setdefault(inner.id, inner.hash)
    return found


def _min_steps(step: Step) -> int:
    if step.condition is not None:
        return 1
    match step.action:
        case Parallel(branches, first=False):
            return 1 + sum(_min_steps(inner) for steps in branches.values() for inner in steps)
        case ForEach(count=int(count)):
            return 1 + count * sum(map(_min_steps, step.action.steps))
        case Call(operation) if isinstance(operation.runs, Workflow):
            return 1 + operation.runs.min_steps
        case _:
            return 1


def privileges(workflow: Workflow) -> frozenset[str]:
    """Returns the privileges that its calls and compensations need, at any depth."""
    found: set[str] = set()
    seen, left = {workflow.id}, [workflow]
    while left:
        for step in all_steps(left.pop().steps):
            calls = (step.action, step.action.compensate) if isinstance(step.action, Call) else ()
            for runs in (call.operation.runs for call in calls if call is not None):
                if isinstance(runs, Method):
                    found.add(runs.privilege)
                elif runs.id not in seen:
                    seen.add(runs.id)
                    left.append(runs)
    return frozenset(found)
