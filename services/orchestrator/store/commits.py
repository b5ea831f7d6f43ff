"""The commits of runs, as the rows that they add to and change in the tables of the store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mesh.observability.span_ids import derive_span_id
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

# The columns of each table of ``Rows``.
STARTED_COLUMNS = (
    *("id", "workflow_id", "definition_hash", "started_by", "traceparent", "status", "reason"),
    *("sequence", "owner", "created_us", "updated_us", "finished_us", "version"),
    *("caller", "method", "request_id", "body", "reply"),
)
UPDATED_COLUMNS = (
    *("id", "epoch", "before", "sequence", "status", "reason", "updated_us", "finished_us"),
)
# ``position`` must be the next one of the run, and the run must have fewer than ``most`` messages
# of this kind.
MESSAGE_COLUMNS = (
    *("id", "position", "kind", "payload", "most"),
    *("caller", "method", "request_id", "body", "reply"),
)
PAYMENT_COLUMNS = ("id", "run")
RECORD_COLUMNS = ("run", "sequence", "kind", "path", "attempt", "at_us", "payload")
# ``span``: id of the run's root span. ``parent``: the traceparent above it; NULL: that of the run's
# row. ``record_sequence``: of the record that emitted the event; 0: the store announces the run.
OUTBOX_COLUMNS = ("type", "run", "span", "parent", "subject", "data", "record_sequence")
RECORD_SEQUENCE = OUTBOX_COLUMNS.index("record_sequence")
TYPE, SUBJECT = OUTBOX_COLUMNS.index("type"), OUTBOX_COLUMNS.index("subject")


@dataclass(frozen=True, slots=True)
class NewRun:
    """An accepted run with its first records, not yet stored."""

    state: RunState
    records: tuple[Record, ...]
    started_by: str  # SPIFFE ID
    traceparent: str
    owned: bool  # by this process; otherwise the run waits for a claim


@dataclass(frozen=True, slots=True)
class StartCommit:
    """Inserts a run, if its id is unused and its definition is the newest of the workflow."""

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
    """A message that is not stored yet, with its position, its sender's key and the reply."""

    message: Message
    key: IdempotencyKey
    reply: bytes


class AppendCommit(NamedTuple):
    """Appends the records of one transition to a run, if the run is where the transition began.

    The ``envelope`` that caused the transition is stored with it: both are, or neither.
    """

    state: RunState
    epoch: int
    records: Sequence[Record]
    envelope: Envelope | None = None


Commit: TypeAlias = StartCommit | AppendCommit


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch of commits, by the columns above."""

    messages: list[RowValues]
    updated: list[RowValues]
    started: list[RowValues]
    payments: list[RowValues]
    records: list[RowValues]
    outbox: list[RowValues]

    @property
    def has_events(self) -> bool:
        return any(row[RECORD_SEQUENCE] for row in self.outbox)


def rows_of(commits: Sequence[Commit], replica_id: str) -> Rows:
    """Returns the rows of a batch. Owned runs that start belong to ``replica_id``."""
    appends = [commit for commit in commits if isinstance(commit, AppendCommit)]
    # Replicas that start the same runs at once lock them in the same order.
    starts = sorted(
        (commit for commit in commits if isinstance(commit, StartCommit)),
        key=lambda s: s.state.run_id,
    )
    return Rows(
        [_message(append.state.run_id, append.envelope) for append in appends if append.envelope],
        [_updated(append) for append in appends],
        [_started(start, replica_id) for start in starts],
        [(id, start.state.run_id) for start in starts for id in sorted(start.state.payments)],
        [_record(commit.state.run_id, record) for commit in commits for record in commit.records],
        [row for commit in commits for row in _outbox(commit)],
    )


def _message(run_id: str, envelope: Envelope) -> RowValues:
    kind, payload, most = encode(envelope.message)
    key = envelope.key
    address = (run_id, envelope.message.position, kind, payload, most)
    return (*address, key.caller, key.method, key.request_id, key.body, envelope.reply)


def _updated(append: AppendCommit) -> RowValues:
    state = append.state
    return (
        state.run_id,
        append.epoch,
        append.records[0].sequence - 1,
        state.sequence,
        state.status.value,
        _reason(state),
        state.updated_us,
        state.finished_us or None,
    )


def _started(start: StartCommit, replica_id: str) -> RowValues:
    state, new, key = start.state, start.new, start.key
    return (
        state.run_id,
        state.workflow_id,
        state.definition_hash,
        new.started_by,
        new.traceparent,
        state.status.value,
        _reason(state),
        state.sequence,
        replica_id if new.owned else "",
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


def _reason(state: RunState) -> str:
    """Returns the reason without U+0000, which a text of PostgreSQL cannot hold."""
    return state.reason.replace("\0", "\ufffd")


def _record(run_id: str, record: Record) -> RowValues:
    return (
        run_id,
        record.sequence,
        record.kind.value,
        record.path,
        record.attempt,
        record.at_us,
        record.encoded,
    )


def _outbox(commit: Commit) -> list[RowValues]:
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
        (type, run_id, span, parent, subject, data, record_sequence)
        for type, subject, data, record_sequence in events
    ]


def emitted_keys(rows: Rows) -> list[tuple[str, str]]:
    """Returns type and subject of each event that steps emitted."""
    return [(row[TYPE], row[SUBJECT]) for row in rows.outbox if row[RECORD_SEQUENCE]]


def emitted_keys_of(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Returns type and subject of each event that these records emit."""
    events = (record.payload["input"] for record in records if emits(record))
    return [(event["type"], event["subject"]) for event in events]


def emits(record: Record) -> bool:
    """Reports whether the record says that a step emitted an event."""
    return record.kind is RecordKind.STEP_DONE and record.payload.get("operation") == EMIT


def _emitted(record: Record) -> tuple[str, str, bytes, int]:
    event = record.payload["input"]
    data = json.dumps(event["data"], ensure_ascii=False, separators=(",", ":")).encode()
    return event["type"], event["subject"], data, record.sequence
