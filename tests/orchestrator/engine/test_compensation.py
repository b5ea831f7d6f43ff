"""The end of a run takes back completed steps, and cancels payments that were not made."""

from __future__ import annotations

import pytest

from anya.web5.v1 import record_pb2
from services.orchestrator.engine.compensation import Compensation, PaymentCancellation
from services.orchestrator.engine.model import RunStatus, StepError
from services.orchestrator.engine.record_writer import RecordWriter
from tests.orchestrator.engine.definitions import STORE, UNDO, call, steps
from tests.orchestrator.engine.engine_run import paying
from tests.orchestrator.engine.parts import Parts, parts_of

REPLY = record_pb2.StoreTransactionRecordResponse(record_id="r").SerializeToString()


def test_completed_steps_are_taken_back_the_last_one_first() -> None:
    parts, compensation = stored("one", "two")

    assert compensation.pending(RunStatus.FAILED) == ["two", "one"]
    compensation.begin("two")
    assert compensation.pending(RunStatus.FAILED) == ["one"]
    assert parts.records()[-1] == ("STEP_INTENT", "two/compensate")


@pytest.mark.parametrize("status", [RunStatus.SUCCEEDED, RunStatus.NEEDS_ATTENTION])
def test_a_run_that_did_not_fail_takes_nothing_back(status: RunStatus) -> None:
    _, compensation = stored("one")

    assert compensation.pending(status) == []
    assert compensation.final_status(status) is status


def test_a_run_is_compensated_once_a_step_was_taken_back() -> None:
    parts, compensation = stored("one")
    compensation.begin("one")
    parts.calls.receive_reply("one/compensate", REPLY)

    assert compensation.failure() is None
    assert compensation.final_status(RunStatus.FAILED) is RunStatus.COMPENSATED


def test_a_step_that_cannot_be_taken_back_decides_the_end() -> None:
    parts, compensation = stored("one")
    compensation.begin("one")
    parts.writer.fail("one/compensate", StepError("NOT_FOUND", "", "no such record"))

    assert compensation.failure() == (
        RunStatus.COMPENSATION_FAILED,
        "one/compensate: NOT_FOUND: no such record",
    )


def test_only_a_cancelled_run_cancels_the_payment_that_it_did_not_make() -> None:
    run = paying()
    writer = RecordWriter(run.workflow, run.state)
    writer.begin(run.now_us, 0.5, None)
    cancellation = PaymentCancellation(writer)

    assert not cancellation.begin(RunStatus.FAILED)
    assert cancellation.begin(RunStatus.CANCELLED)
    (record,) = writer.records
    assert record.path == "execute_payment/cancel"
    assert (record.payload["key"], record.payload["cancels_payment"]) == (run.state.run_id, True)


def stored(*ids: str) -> tuple[Parts, Compensation]:
    """A run whose steps have each stored a record that can be taken back."""
    parts = parts_of(steps(*(call(id, STORE, UNDO) for id in ids)), did="d")
    for id in ids:
        parts.interpreter.advance()
        parts.calls.receive_reply(id, REPLY)
    return parts, Compensation(parts.writer, parts.interpreter)
