"""Notifications of a run: the records that a watcher takes, or none if there is a gap."""

from __future__ import annotations

from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.records import Record, RecordKind
from services.orchestrator.notifications import MAX_BUFFERED_RECORDS, RunNotifier


def record(sequence: int) -> Record:
    return Record.write(sequence, RecordKind.RECOVERED, "", 0, 1, {})


def test_watcher_takes_the_records_after_its_own() -> None:
    notifier = RunNotifier()

    with notifier.watch("run") as updates:
        notifier.publish(RunState("run"), [record(1), record(2)])
        notifier.publish(RunState("run"), [record(3)])
        notifier.publish(RunState("another"), [record(4)])
        taken = updates.take(after=1)

    assert updates.is_set()
    assert [one.sequence for one in taken] == [2, 3]


def test_watcher_that_missed_a_record_takes_none() -> None:
    notifier = RunNotifier()

    with notifier.watch("run") as updates:
        notifier.publish(RunState("run"), [record(3)])

        assert updates.take(after=1) == []


def test_record_is_taken_once() -> None:
    notifier = RunNotifier()

    with notifier.watch("run") as updates:
        notifier.publish(RunState("run"), [record(1)])
        updates.take(after=0)

        assert updates.take(after=0) == []


def test_watcher_that_is_far_behind_takes_none() -> None:
    notifier = RunNotifier()

    with notifier.watch("run") as updates:
        for sequence in range(1, MAX_BUFFERED_RECORDS + 10):
            notifier.publish(RunState("run"), [record(sequence)])

        assert updates.take(after=0) == []


def test_record_that_is_read_again_shares_nothing_with_the_first() -> None:
    first = Record.write(1, RecordKind.RECOVERED, "", 0, 1, {"inner": {"value": 1}})

    again = first.copy()
    again.payload["inner"]["value"] = 2

    assert first.payload == {"inner": {"value": 1}}
