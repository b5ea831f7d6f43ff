"""What runs want to commit, as the rows that it leaves in the tables of the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.observability.telemetry import derive_span_id
from services.orchestrator.engine.records import EMIT, RecordKind
from services.orchestrator.store.messages import encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record
    from services.orchestrator.store.messages import Message

STARTED = "orchestrator.run.started"
FINISHED = "orchestrator.run.finished"

RowValues: TypeAlias = tuple[Any, ...]

# What the tuples of ``Rows`` hold.
MOVED = ("id", "epoch", "before", "sequence", "status", "reason", "updated_us", "finished_us")
BORN = (
    *("id", "workflow_id", "definition_hash", "starter", "traceparent", "status", "reason"),
    *("sequence", "owner", "created_us", "updated_us", "finished_us", "version"),
    *("caller", "method", "request_id", "body", "reply"),
)
PAID = ("id", "run")  # the payments of a run that makes several
# The position is the next one, if the run has not been sent more than its driver knows.
SENT = (
    *("id", "position", "kind", "payload", "most"),
    *("caller", "method", "request_id", "body", "reply"),
)
RECORDED = ("run", "sequence", "kind", "path", "attempt", "at_us", "payload")
# The id of the run's span; what it is below, unless its row has said so before; and of what a step
# emitted the sequence of the record that says so, else 0.
HAPPENED = ("type", "run", "span", "parent", "subject", "data", "emitted")
EMITTED = HAPPENED.index("emitted")
TYPE, SUBJECT = HAPPENED.index("type"), HAPPENED.index("subject")


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that was judged and may begin, with its first records."""

    state: RunState
    records: tuple[Record, ...]
    starter: str
    traceparent: str
    owned: bool  # by who starts it; otherwise it waits until a process has room


@dataclass(frozen=True, slots=True)
class StartCommit:
    """A run to be born, if nobody has its id and its definition is the newest."""

    new: NewRun
    key: IdempotencyKey
    reply: bytes
    version: int  # of the definition

    @property
    def state(self) -> RunState:
        return self.new.state

    @property
    def records(self) -> Sequence[Record]:
        return self.new.records


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message that is not stored yet, addressed to its position, and who is to be answered."""

    message: Message
    key: IdempotencyKey
    reply: bytes


@dataclass(frozen=True, slots=True)
class AppendCommit:
    """What a turn adds to a run, if it is still where that turn began.

    With the ``envelope`` that led to the turn, if it is stored along: both are, or neither.
    """

    state: RunState
    epoch: int
    records: Sequence[Record]
    envelope: Envelope | None = None


Commit: TypeAlias = StartCommit | AppendCommit


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch."""

    sent: list[RowValues]
    moved: list[RowValues]
    born: list[RowValues]
    paid: list[RowValues]
    recorded: list[RowValues]
    happened: list[RowValues]


def rows_of(commits: Sequence[Commit], executor: str) -> Rows:
    appends = [commit for commit in commits if isinstance(commit, AppendCommit)]
    # Replicas that start the same runs at once lock them in the same order.
    starts = sorted(
        (commit for commit in commits if isinstance(commit, StartCommit)),
        key=lambda s: s.state.run_id,
    )
    return Rows(
        [_sent(append.state.run_id, append.envelope) for append in appends if append.envelope],
        [_moved(append) for append in appends],
        [_born(start, executor) for start in starts],
        [(id, start.state.run_id) for start in starts for id in sorted(start.state.payments)],
        [_recorded(commit.state.run_id, record) for commit in commits for record in commit.records],
        [event for commit in commits for event in _happened(commit)],
    )


def _sent(run_id: str, envelope: Envelope) -> RowValues:
    kind, payload, most = encode(envelope.message)
    key = envelope.key
    address = (run_id, envelope.message.position, kind, payload, most)
    return (*address, key.caller, key.method, key.request_id, key.body, envelope.reply)


def _moved(append: AppendCommit) -> RowValues:
    state = append.state
    return (
        state.run_id,
        append.epoch,
        append.records[0].sequence - 1,
        state.sequence,
        state.status.value,
        _why(state),
        state.updated_us,
        state.finished_us or None,
    )


def _born(start: StartCommit, executor: str) -> RowValues:
    state, new, key = start.state, start.new, start.key
    return (
        state.run_id,
        state.workflow_id,
        state.definition_hash,
        new.starter,
        new.traceparent,
        state.status.value,
        _why(state),
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


def _why(state: RunState) -> str:
    """The reason as every store can hold it: a text of PostgreSQL has no U+0000."""
    return state.reason.replace("\0", "\ufffd")


def _recorded(run_id: str, record: Record) -> RowValues:
    return (
        run_id,
        record.sequence,
        record.kind.value,
        record.path,
        record.attempt,
        record.at_us,
        record.encoded,
    )


def _happened(commit: Commit) -> list[RowValues]:
    run_id = commit.state.run_id
    events: list[tuple[str, str, bytes, int]] = []
    if isinstance(commit, StartCommit):
        events.append((STARTED, run_id, b"", 0))
    events += [_emitted(record) for record in commit.records if emits(record)]
    if commit.state.finished:
        events.append((FINISHED, run_id, b"", 0))
    if not events:
        return []
    span = f"{derive_span_id(run_id):016x}"
    parent = commit.new.traceparent if isinstance(commit, StartCommit) else None
    return [
        (type, run_id, span, parent, subject, data, emitted)
        for type, subject, data, emitted in events
    ]


def emitted_keys(rows: Rows) -> list[tuple[str, str]]:
    """Types and subjects of what steps emitted."""
    return [(row[TYPE], row[SUBJECT]) for row in rows.happened if row[EMITTED]]


def emitted_keys_of(records: Iterable[Record]) -> list[tuple[str, str]]:
    """The same of these records."""
    events = (record.payload["input"] for record in records if emits(record))
    return [(event["type"], event["subject"]) for event in events]


def emits(record: Record) -> bool:
    """Does the record say that a step emitted an event?"""
    return record.kind is RecordKind.STEP_DONE and record.payload.get("operation") == EMIT


def _emitted(record: Record) -> tuple[str, str, bytes, int]:
    event = record.payload["input"]
    data = json.dumps(event["data"], ensure_ascii=False, separators=(",", ":")).encode()
    return event["type"], event["subject"], data, record.sequence
