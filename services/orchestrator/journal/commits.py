"""What runs want to commit, as the columns of one statement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.telemetry import derive_span_id
from services.orchestrator.journal.runs import FINISHED, STARTED
from services.orchestrator.journal.statements import MOVED, WAITING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mesh.inbox import RequestKey
    from services.orchestrator.engine.record import Record
    from services.orchestrator.engine.state import RunState
    from services.orchestrator.journal.runs import NewRun

IDS_TOLD_AT_ONCE = 100  # a notification holds 8,000 bytes


@dataclass(frozen=True, slots=True)
class Start:
    """A run to be born, if nobody has its id and its definition is the newest."""

    new: NewRun
    key: RequestKey
    reply: bytes
    version: int  # of the definition

    @property
    def state(self) -> RunState:
        return self.new.state

    @property
    def records(self) -> Sequence[Record]:
        return self.new.records


@dataclass(frozen=True, slots=True)
class Append:
    """What a turn adds to a run, if it is still where that turn began."""

    state: RunState
    epoch: int
    records: Sequence[Record]


Commit: TypeAlias = Start | Append


def arguments(commits: Sequence[Commit], executor: str) -> list[list[Any]]:
    """The columns that COMMIT takes, from $3 on."""
    appends = [commit for commit in commits if isinstance(commit, Append)]
    # Replicas that start the same runs at once lock them in the same order.
    starts = sorted(
        (commit for commit in commits if isinstance(commit, Start)), key=lambda s: s.state.run_id
    )
    return [
        *_columns([_moved(append) for append in appends], 8),
        *_columns([_born(start, executor) for start in starts], 18),
        *_columns([row for commit in commits for row in _recorded(commit)], 7),
        *_columns([event for commit in commits for event in _events(commit)], 3),
        *_columns(list(_told(commits)), 2),
    ]


def _moved(append: Append) -> tuple[Any, ...]:
    state = append.state
    return (
        state.run_id,
        append.epoch,
        append.records[0].sequence - 1,
        state.sequence,
        state.status,
        state.reason,
        state.updated_us,
        state.finished_us or None,
    )


def _born(start: Start, executor: str) -> tuple[Any, ...]:
    state, new, key = start.state, start.new, start.key
    return (
        state.run_id,
        state.workflow_id,
        state.definition_hash,
        new.starter,
        new.traceparent,
        state.status,
        state.reason,
        state.sequence,
        executor if new.owned else "",
        state.created_us,
        state.updated_us,
        state.finished_us or None,
        start.version,
        key.caller,
        key.method,
        key.request_id,
        key.body,
        start.reply,
    )


def _recorded(commit: Commit) -> Iterator[tuple[Any, ...]]:
    for record in commit.records:
        yield (
            commit.state.run_id,
            record.sequence,
            record.kind,
            record.path,
            record.attempt,
            record.at_us,
            record.encode(),
        )


def _events(commit: Commit) -> Iterator[tuple[str, str, str]]:
    run_id = commit.state.run_id
    span = f"{derive_span_id(run_id):016x}"
    if isinstance(commit, Start):
        yield STARTED, run_id, span
    if commit.state.finished:
        yield FINISHED, run_id, span


def _told(commits: Sequence[Commit]) -> Iterator[tuple[str, str]]:
    ids = [commit.state.run_id for commit in commits]
    for first in range(0, len(ids), IDS_TOLD_AT_ONCE):
        yield MOVED, " ".join(ids[first : first + IDS_TOLD_AT_ONCE])
    if any(isinstance(commit, Start) and not commit.new.owned for commit in commits):
        yield WAITING, ""


def _columns(rows: list[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
