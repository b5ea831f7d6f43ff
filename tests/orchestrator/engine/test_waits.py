"""Steps that wait for events and approvals, and the events that runs emit."""

from __future__ import annotations

import hashlib

import pytest
import rfc8785

from mesh.errors import InvalidArgument
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US
from tests.orchestrator.engine.definitions import steps
from tests.orchestrator.engine.engine_run import EngineRun, run_of

LISTEN = 'listen\n    wait_for: {event: order.paid, correlation: "7", timeout: 1m}'
ASK = (
    'agree\n    approval: {approvers: ["did:example:a", "did:example:b", "did:example:c"],'
    ' quorum: 2, text: "Pay {{input.amount}}?", values: {amount: "{{input.amount}}"}, timeout: 30m}'
)


def test_only_an_event_of_the_type_and_correlation_completes_the_step() -> None:
    run = run_of(steps(LISTEN))
    run.receive("order.placed", subject="7")
    run.receive("order.paid", subject="8")

    assert run.status == "WAITING"
    assert len(run.journal) == 2
    run.receive("order.paid", subject="7", amount=5)
    assert run.status == "SUCCEEDED"
    assert run.state.steps["listen"].output == {"signal": "order.paid", "payload": {"amount": 5}}


def test_an_event_from_before_the_step_began_does_not_count() -> None:
    run = EngineRun(run_of(steps(LISTEN)).workflow, {}, events=5).start()
    run.events = 4
    run.receive("order.paid", subject="7")

    assert run.status == "WAITING"


def test_an_event_that_arrives_twice_is_recorded_once() -> None:
    run = run_of(steps("listen\n    wait_for: {all: [{event: a.one}, {event: a.two}]}"))
    run.receive("a.one", first=True)
    run.crash()
    run.events = 0
    run.receive("a.one", first=False)
    run.receive("a.one", first=False)

    assert [record.kind for record in run.journal].count(RecordKind.EVENT) == 1
    run.receive("a.two")
    assert run.state.steps["listen"].output == {
        "signal": "a.one",
        "payload": {"a_one": {"first": True}, "a_two": {}},
    }


def test_a_step_receives_events_of_later_steps_of_its_run_only() -> None:
    run = run_of(steps("tell\n    emit: {type: order.paid, subject: '7'}", LISTEN))
    emitted = next(record for record in run.journal if record.path == "tell")
    run.receive("order.paid", subject="7", run_id="run", emitted=emitted.sequence)

    assert run.status == "WAITING"
    run.receive("order.paid", subject="7", run_id="run", emitted=99)
    assert run.status == "SUCCEEDED"


def test_a_signal_and_an_event_can_be_waited_for_together() -> None:
    run = run_of(steps("listen\n    wait_for: {any: [stop, {event: a.one}]}"))

    run.receive("a.one")

    assert run.state.steps["listen"].output == {"signal": "a.one", "payload": {}}


def test_one_event_reaches_every_step_that_waits_for_it() -> None:
    text = steps(
        "both\n    parallel:\n      branches:\n"
        "        left: [{id: first, wait_for: {event: a.one}}]\n"
        "        right: [{id: second, wait_for: {event: a.one}}]"
    )
    run = run_of(text)

    run.receive("a.one")

    assert run.status == "SUCCEEDED"


def test_an_emitted_event_is_in_the_record_of_its_step() -> None:
    run = run_of(
        steps('tell\n    emit: {type: order.paid, data: {of: "{{input.amount}}"}}'), amount=5
    )

    (emitted,) = [record for record in run.journal if record.path == "tell"]
    assert emitted.kind is RecordKind.STEP_DONE
    assert emitted.payload["input"] == {"type": "order.paid", "subject": "run", "data": {"of": 5}}


@pytest.mark.parametrize("text", ["a\0b", "7" * 201], ids=["U+0000", "too long"])
def test_a_subject_that_the_store_cannot_hold_fails_the_step(text: str) -> None:
    emits = run_of(steps('tell\n    emit: {type: order.paid, subject: "{{input.of}}"}'), of=text)
    listens = run_of(steps(LISTEN.replace('"7"', '"{{input.of}}"')), of=text)

    assert (emits.status, listens.status) == ("FAILED", "FAILED")
    assert "subject must be a text of 1 to 200 characters" in emits.state.reason
    assert "correlation must be a text of 0 to 200 characters" in listens.state.reason


def test_an_event_that_carries_too_much_fails_its_step() -> None:
    text = steps('tell\n    emit: {type: order.paid, data: {text: "{{input.words}}"}}')

    run = run_of(text, words="x" * 70_000)

    assert run.status == "FAILED"
    assert "at most 65536 bytes" in run.state.reason


def test_an_approval_completes_at_its_quorum_with_the_evidence() -> None:
    run = run_of(steps(ASK), amount=5)
    run.decide("agree", "did:example:a")
    run.decide("agree", "did:example:a")
    run.decide("agree", "did:example:x")
    run.crash()

    assert run.status == "WAITING"
    run.decide("agree", "did:example:c")
    step = run.state.steps["agree"]
    assert run.status == "SUCCEEDED"
    assert step.output["approved_by"] == ["did:example:a", "did:example:c"]
    assert [decision.jws for decision in step.decisions.values()] == [
        "jws of did:example:a",
        "jws of did:example:c",
    ]


def test_approvers_sign_the_digest_of_the_whole_document() -> None:
    run = run_of(steps(ASK), amount=5)

    input = run.state.steps["agree"].input
    assert input["digest"] == hashlib.sha256(rfc8785.dumps(input["asked"])).hexdigest()
    assert input["asked"] == {
        "run_id": "run",
        "step": "agree",
        "text": "Pay 5?",
        "values": {"amount": 5},
        "approvers": ["did:example:a", "did:example:b", "did:example:c"],
        "quorum": 2,
        "asked": "2023-11-14T22:13:20.000Z",
    }


def test_a_decision_about_another_document_does_not_count() -> None:
    run = run_of(steps(ASK), amount=5)
    other = run_of(steps(ASK), amount=6)
    run.state.steps["agree"].input["digest"], mine = (
        other.state.steps["agree"].input["digest"],
        run.state.steps["agree"].input["digest"],
    )
    run.decide("agree", "did:example:a")
    run.crash()

    assert run.state.steps["agree"].input["digest"] == mine
    assert run.state.steps["agree"].decisions == {}


def test_an_approval_fails_as_soon_as_its_quorum_is_out_of_reach() -> None:
    run = run_of(steps(ASK), amount=5)
    run.decide("agree", "did:example:a", approved=False)
    assert run.status == "WAITING"

    run.decide("agree", "did:example:b", approved=False)

    assert run.status == "FAILED"
    assert run.state.reason.startswith("agree: APPROVAL_REJECTED: 2 of 3 rejected it")


def test_an_approver_cannot_change_a_decision() -> None:
    run = run_of(steps(ASK), amount=5)
    run.decide("agree", "did:example:a", approved=False)
    run.decide("agree", "did:example:a")

    assert not run.state.steps["agree"].decisions["did:example:a"].approved


def test_an_approval_ends_with_its_time() -> None:
    run = run_of(steps(ASK), amount=5)
    run.decide("agree", "did:example:a")
    run.now_us += 1800 * SECOND_US
    run.expire("agree")

    assert run.status == "FAILED"
    assert run.state.reason == "agree: DEADLINE_EXCEEDED: 1 of 2 approved in time"


@pytest.mark.parametrize(
    "who", [[], ["did:example:a"], ["did:example:a", "did:example:a"], ["a", "b"], "did:example:a"]
)
def test_approvers_that_are_too_few_or_no_dids_fail_the_step(who: object) -> None:
    text = steps('agree\n    approval: {approvers: "{{input.who}}", quorum: 2, text: ok}')

    if isinstance(who, str):
        with pytest.raises(InvalidArgument, match="who"):
            run_of(text, who=who)
    else:
        assert run_of(text, who=who).status == "FAILED"
