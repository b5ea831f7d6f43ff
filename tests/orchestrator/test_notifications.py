"""Who watches a run is told its records by who drives it, or finds that some are missing."""

from __future__ import annotations

from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.notifications import MAX_TOLD, RunNotifier


def record(sequence: int) -> Record:
    return Record.write(sequence, RecordKind.RECOVERED, "", 0, 1, {})


def test_a_watcher_is_told_the_records_behind_those_that_it_has() -> None:
    changes = RunNotifier()

    with changes.watch("run") as moved:
        changes.moved(RunState("run"), [record(1), record(2)])
        changes.moved(RunState("run"), [record(3)])
        changes.moved(RunState("another"), [record(4)])
        told = moved.take(after=1)

    assert moved.is_set()
    assert [one.sequence for one in told] == [2, 3]


def test_a_watcher_that_missed_a_record_is_told_none() -> None:
    changes = RunNotifier()

    with changes.watch("run") as moved:
        changes.moved(RunState("run"), [record(3)])

        assert moved.take(after=1) == []


def test_what_was_taken_is_not_told_again() -> None:
    changes = RunNotifier()

    with changes.watch("run") as moved:
        changes.moved(RunState("run"), [record(1)])
        moved.take(after=0)

        assert moved.take(after=0) == []


def test_a_watcher_that_is_far_behind_is_sent_to_the_store() -> None:
    changes = RunNotifier()

    with changes.watch("run") as moved:
        for sequence in range(1, MAX_TOLD + 10):
            changes.moved(RunState("run"), [record(sequence)])

        assert moved.take(after=0) == []


def test_a_record_that_is_read_again_shares_nothing_with_the_first() -> None:
    first = Record.write(1, RecordKind.RECOVERED, "", 0, 1, {"inner": {"value": 1}})

    again = first.read_again()
    again.payload["inner"]["value"] = 2

    assert first.payload == {"inner": {"value": 1}}
