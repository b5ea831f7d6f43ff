"""traces.db: the spans of the local mesh, one row each, the oldest traces making room for new."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cli.errors import CommandError
from cli.spans.span import ReceivedSpan, SpanEvent, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

VERSION = 2  # of the schema
SCHEMA = """
CREATE TABLE IF NOT EXISTS trace (
  trace_id TEXT PRIMARY KEY,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  spans INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trace_by_start ON trace (start_ns);
CREATE TABLE IF NOT EXISTS span (
  trace_id TEXT NOT NULL,
  span_id TEXT NOT NULL,
  parent_id TEXT NOT NULL,
  service TEXT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  start_ns INTEGER NOT NULL,
  end_ns INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  message TEXT NOT NULL,
  attributes TEXT NOT NULL,
  events TEXT NOT NULL,
  PRIMARY KEY (trace_id, span_id)
) STRICT, WITHOUT ROWID;
"""
DISCARD = "DROP TABLE IF EXISTS trace; DROP TABLE IF EXISTS span;"

ADD = "INSERT INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
GROW = """
INSERT INTO trace VALUES (?, ?, ?, ?) ON CONFLICT (trace_id) DO UPDATE SET
  start_ns = MIN(start_ns, excluded.start_ns), end_ns = MAX(end_ns, excluded.end_ns),
  spans = spans + excluded.spans
"""
# A span that is sent again replaces itself: a recovered run closes the span that a kill left open.
REPLACE = "INSERT OR REPLACE INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
COUNT = """
INSERT INTO trace SELECT trace_id, MIN(start_ns), MAX(end_ns), COUNT(*) FROM span
WHERE trace_id = ? GROUP BY trace_id
ON CONFLICT (trace_id) DO UPDATE SET
  start_ns = excluded.start_ns, end_ns = excluded.end_ns, spans = excluded.spans
"""
LIST = """
SELECT trace.trace_id, trace.start_ns, trace.end_ns - trace.start_ns, trace.spans,
  COALESCE(root.name, ''), COALESCE(root.service, ''),
  EXISTS (SELECT 1 FROM span WHERE span.trace_id = trace.trace_id AND failed)
FROM trace LEFT JOIN span AS root ON root.trace_id = trace.trace_id AND root.span_id = (
  SELECT span_id FROM span WHERE trace_id = trace.trace_id AND parent_id = ''
  ORDER BY start_ns LIMIT 1
)
ORDER BY trace.start_ns DESC LIMIT ?
"""

_JSON = json.JSONEncoder(check_circular=False).encode

MAX_SPANS = 200_000
CHECK_INTERVAL_SPANS = 2_000  # between two checks of the bound


class Summary(NamedTuple):
    """One line of the list of traces. What is said of the root is empty until it has arrived."""

    trace_id: str
    start_ns: int
    duration_ns: int
    spans: int
    name: str
    service: str
    failed: bool


class SpanStore:
    """The writing side; one process holds it. Not for the event loop: it waits for the disk."""

    def __init__(self, path: Path, *, max_spans: int = MAX_SPANS) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            if self._one("PRAGMA user_version") != VERSION:  # new, or of another version of anya
                self._connection.executescript(DISCARD)
            self._connection.executescript(SCHEMA)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _damaged(path, error) from None
        self._max_spans = max_spans
        self._unchecked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def add(self, spans: Iterable[ReceivedSpan]) -> None:
        """Stores a batch in one commit."""
        spans = list(spans)
        rows = [_row(span) for span in spans]
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if self._connection.executemany(ADD, rows).rowcount == len(rows):
                self._connection.executemany(GROW, _by_trace(spans))
            else:
                self._connection.executemany(REPLACE, rows)
                self._connection.executemany(COUNT, {(span.trace_id,) for span in spans})
            self._unchecked += len(rows)
            if self._unchecked >= min(CHECK_INTERVAL_SPANS, self._max_spans):
                self._unchecked = 0
                self._make_room()

    def _make_room(self) -> None:
        """Deletes whole traces, oldest first, until the bound holds."""
        surplus = self._one("SELECT COALESCE(SUM(spans), 0) FROM trace") - self._max_spans
        while surplus > 0:
            oldest = self._connection.execute(
                "DELETE FROM trace WHERE trace_id ="
                " (SELECT trace_id FROM trace ORDER BY start_ns LIMIT 1) RETURNING trace_id, spans"
            ).fetchone()
            self._connection.execute("DELETE FROM span WHERE trace_id = ?", oldest[:1])
            surplus -= oldest[1]

    def _one(self, sql: str) -> int:
        return int(self._connection.execute(sql).fetchone()[0])


def load(path: Path, trace_id: str) -> Trace:
    """Returns the spans of one trace that have arrived, or [] if it is unknown."""
    with _reading(path) as connection:
        rows = connection.execute("SELECT * FROM span WHERE trace_id = ?", (trace_id,))
        return Trace.of(trace_id, [_span(row) for row in rows])


def newest(path: Path, *, limit: int) -> list[Summary]:
    """Returns the newest traces, newest first."""
    with _reading(path) as connection:
        return [
            Summary._make((*row[:-1], bool(row[-1]))) for row in connection.execute(LIST, (limit,))
        ]


def expand(path: Path, prefix: str) -> str:
    """Returns the one trace id that begins with ``prefix``."""
    with _reading(path) as connection:
        rows = connection.execute(
            "SELECT trace_id FROM trace WHERE substr(trace_id, 1, ?) = ? LIMIT 2",
            (len(prefix), prefix.lower()),
        ).fetchall()
    if len(rows) == 1 and prefix:
        return str(rows[0][0])
    raise CommandError(
        f"{'no trace begins' if not rows else 'more than one trace begins'} with {prefix!r}",
        code="NOT_FOUND",
        reason="TRACE_UNKNOWN" if not rows else "TRACE_AMBIGUOUS",
        remedy="anya trace list shows the ids",
    )


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        raise CommandError(
            f"there are no traces in {path}",
            code="NOT_FOUND",
            reason="NO_TRACES",
            remedy="run anya demo, or anya up without OTEL_EXPORTER_OTLP_ENDPOINT",
        ) from None
    with closing(connection):
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise CommandError(
                    f"{path} is of another version of anya",
                    reason="TRACES_OUTDATED",
                    remedy="start the mesh with anya up, which begins it again",
                )
            yield connection
        except sqlite3.DatabaseError as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: sqlite3.DatabaseError) -> CommandError:
    return CommandError(
        f"{path} is not what anya up writes: {error}",
        reason="TRACES_DAMAGED",
        remedy="move it away: it holds traces, and nothing else",
    )


def _by_trace(spans: Iterable[ReceivedSpan]) -> list[tuple[str, int, int, int]]:
    """Returns the summaries of the traces that new spans change."""
    traces: dict[str, tuple[int, int, int]] = {}
    for span in spans:
        first, last, count = traces.get(span.trace_id, (span.start_ns, span.end_ns, 0))
        traces[span.trace_id] = min(first, span.start_ns), max(last, span.end_ns), count + 1
    return [(trace_id, *grown) for trace_id, grown in traces.items()]


def _row(span: ReceivedSpan) -> tuple[object, ...]:
    *columns, attributes, events = span
    return (*columns, _JSON(attributes), _JSON(events))


def _span(row: tuple[str | int, ...]) -> ReceivedSpan:
    *texts, start_ns, end_ns, failed, message, attributes, events = row
    trace_id, span_id, parent_id, service, name, kind = map(str, texts)
    return ReceivedSpan(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        service=service,
        name=name,
        kind=kind,
        start_ns=int(start_ns),
        end_ns=int(end_ns),
        failed=bool(failed),
        message=str(message),
        attributes=json.loads(str(attributes)),
        events=tuple(SpanEvent(*event) for event in json.loads(str(events))),
    )
