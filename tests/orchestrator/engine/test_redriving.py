"""A run that ended goes on from what stopped it, and nothing is done twice on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anya.bitcoin.v1 import wallet_pb2
from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine import redriving
from services.orchestrator.engine.events import Began, Call, Cancel, CancelRequested, Replied
from services.orchestrator.engine.evolve import fold
from services.orchestrator.engine.machine import commands
from services.orchestrator.engine.policy import SECOND
from services.orchestrator.engine.record import Kind, Record
from services.orchestrator.engine.state import Error, RunStatus
from tests.orchestrator.engine.driving import CRASH, POLICY, Drive, paying, run_of
from tests.orchestrator.engine.everything import EVERYTHING, NESTED, READ, STORE, UNDO, call, steps

LOST = Error("DEADLINE_EXCEEDED", "", "late")
REFUSED = Error("FAILED_PRECONDITION", "DID_INVALID", "no")
REDRIVABLE = ("FAILED", "NEEDS_ATTENTION", "COMPENSATION_FAILED")


def redrive(run: Drive, *, begin: bool = True) -> None:
    record = redriving.redrive(
        run.state, run.state.status, reason="mended", by="spiffe://ops", at_us=run.now_us
    )
    run.journal.append(record)
    if begin:
        run.take(Began())


def give_up(run: Drive, path: str, code: str = "UNAVAILABLE") -> None:
    """Fail until the engine has had enough."""
    while not run.state.finished:
        run.do(run.commands[0], Error(code, "", "gone") if run.calls == [path] else None)


def end_by_defect(run: Drive) -> None:
    """As the runner ends a run whose turn raised."""
    payload = {"status": "NEEDS_ATTENTION", "reason": "internal error 1"}
    end = Record.write(run.state.sequence + 1, Kind.FINISH, "", 0, run.now_us, payload)
    run.journal.append(end)
    run.state = fold(run.state.run_id, run.journal)


def test_a_run_goes_on_from_the_step_that_failed() -> None:
    run = run_of(steps(call("first", STORE), call("look", READ), call("last", STORE)), did="d")
    run.reply("first")
    run.fail("look")
    assert run.status == "FAILED"

    redrive(run)
    assert run.calls == ["look"]
    run.reply("look", "last")

    assert run.status == "SUCCEEDED"
    assert len(run.sent["first"]) == 1
    (again,) = run.state.redrives
    assert (again.by, again.reason, again.ended) == ("spiffe://ops", "mended", RunStatus.FAILED)


def test_a_step_whose_outcome_is_unknown_is_asked_again_with_the_same_bytes() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    give_up(run, "keep", "DEADLINE_EXCEEDED")
    assert run.status == "NEEDS_ATTENTION"
    before = run.state.steps["keep"].attempt

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert len(run.sent["keep"]) == 1
    assert run.state.steps["keep"].attempt == before + 1


def test_a_step_that_was_refused_begins_anew_under_a_key_of_its_own() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.fail("keep", "INVALID_ARGUMENT")

    redrive(run)
    assert run.state.steps["keep"].key == "run/keep/0/1"
    run.fail("keep", "INVALID_ARGUMENT")
    redrive(run)

    assert run.state.steps["keep"].key == "run/keep/0/2"
    run.reply("keep")
    assert run.status == "SUCCEEDED"


def test_a_step_that_was_refused_behind_a_lost_attempt_keeps_its_key() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.fail("keep", "DEADLINE_EXCEEDED")
    run.do(run.commands[0])
    run.fail("keep", "INVALID_ARGUMENT")
    assert run.status == "FAILED"

    redrive(run)
    run.finish()

    assert len(run.sent["keep"]) == 1
    assert run.state.steps["keep"].key == "run/keep/0"


def test_what_the_definition_allows_begins_anew() -> None:
    text = "deadline: 1m\n" + steps(
        call("keep", STORE, "    retry: {max_attempts: 2}\n    timeout: 10s\n"), call("look", READ)
    )
    run = run_of(text, did="d")
    for _ in range(2):
        run.fail("keep", "ABORTED")
        if run.commands:
            run.do(run.commands[0])
    assert run.status == "FAILED"
    run.now_us += 3600 * SECOND

    redrive(run)
    run.do(run.commands[0])
    run.fail("keep", "ABORTED")
    run.do(run.commands[0])
    run.reply("keep", "look")

    assert run.status == "SUCCEEDED"
    assert run.state.deadline_us < run.now_us + 60 * SECOND


def test_a_failed_compensation_is_tried_again_and_what_is_left_is_taken_back() -> None:
    run = run_of(
        steps(call("one", STORE, UNDO), call("two", STORE, UNDO), call("look", READ)), did="d"
    )
    run.reply("one", "two")
    run.fail("look")
    run.fail("two/compensate")
    assert run.status == "COMPENSATION_FAILED"

    redrive(run)
    assert run.calls == ["two/compensate"]
    run.reply("two/compensate", "one/compensate")

    assert run.status == "COMPENSATED"
    assert run.statuses()["look"] == "FAILED"


def test_the_branches_beside_the_one_that_failed_go_on_too() -> None:
    text = steps(
        "both\n    parallel:\n      branches:\n"
        "        left:\n          - id: pause\n            wait: {duration: 10s}\n"
        "          - id: after\n            set: {a: 1}\n"
        "        right:\n          - id: look\n            protocol: web5\n"
        "            operation: extract_identity_features\n"
        "            input_mapping: {did: d, recipient_address: r}\n"
        "            output_mapping: {}\n"
    )
    run = run_of(text)
    run.fail("both/look")
    assert run.statuses()["both/pause"] == "SKIPPED"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert set(run.statuses().values()) == {"SUCCEEDED"}


def test_a_handler_that_failed_goes_on_with_the_error_that_it_is_about() -> None:
    text = steps(
        call("look", READ, "    on_error:\n      steps:\n")
        + "        - id: keep"
        + STORE.replace("\n    ", "\n          "),
        'note\n    set: {why: "{{steps.look._error}}"}',
    )
    run = run_of(text, did="d")
    run.fail("look", "NOT_FOUND")
    run.fail("look/on_error/keep", "INVALID_ARGUMENT")
    assert run.status == "FAILED"

    redrive(run)
    assert run.calls == ["look/on_error/keep"]
    run.reply("look/on_error/keep")

    assert run.status == "SUCCEEDED"
    assert run.state.steps["note"].output == {"why": "NOT_FOUND"}


def test_a_run_that_ended_by_a_defect_goes_on_where_it_was() -> None:
    run = run_of(steps(call("keep", STORE), call("look", READ)), did="d")
    end_by_defect(run)

    redrive(run)
    assert run.state.steps["keep"].uncertain  # whoever called did not hear
    run.finish()

    assert run.status == "SUCCEEDED"
    assert len(run.sent["keep"]) == 1


def test_a_redriven_run_that_nobody_drove_yet_has_sent_nothing() -> None:
    run = run_of(steps(call("keep", STORE)), did="d")
    run.fail("keep", "RESOURCE_EXHAUSTED", "BUDGET_EXCEEDED")
    redrive(run, begin=False)

    assert not [command for command in run.commands if isinstance(command, Call)]


@pytest.mark.parametrize(
    "status", [RunStatus.SUCCEEDED, RunStatus.REFUSED, RunStatus.CANCELLED, RunStatus.COMPENSATED]
)
def test_what_was_decided_is_not_redriven(status: RunStatus) -> None:
    run = run_of(steps(call("look", READ)), did="d")

    with pytest.raises(FailedPrecondition, match=f"ended as {status}") as refusal:
        redriving.redrive(run.state, status, reason="", by="me", at_us=run.now_us)

    assert refusal.value.reason is Reason.NOT_REDRIVABLE


def test_a_run_that_its_definition_ended_is_not_redriven() -> None:
    text = steps(
        'way\n    switch:\n      - when: "{{input.a}} > 0"\n        steps:\n'
        "          - id: out\n            end: {outcome: failed, reason: enough}\n"
    )
    run = run_of(text, a=1)
    assert run.status == "FAILED"

    with pytest.raises(FailedPrecondition, match="no step stopped it"):
        redrive(run)


def test_a_run_is_redriven_so_many_times_and_no_more() -> None:
    run = run_of(steps(call("look", READ)), did="d")
    run.fail("look")
    for _ in range(redriving.MAX_REDRIVES):
        redrive(run)
        run.fail("look")

    with pytest.raises(FailedPrecondition, match="99 times"):
        redrive(run)


def test_a_payment_whose_outcome_is_unknown_keeps_its_id_and_its_bytes() -> None:
    run = paying()
    outcomes: list[Error | None] = []
    while not run.state.finished:
        command = run.commands[0]
        is_pivot = command.path == "execute_payment" and not hasattr(command, "until_us")
        outcomes.append(LOST if is_pivot else None)
        run.do(command, outcomes[-1])
    assert run.status == "NEEDS_ATTENTION"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert len(run.sent["execute_payment"]) == 1
    assert run.state.steps["execute_payment"].key == run.state.run_id


def test_a_payment_that_was_told_as_unknown_is_asked_again_with_all_behind_it() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    unknown = wallet_pb2.SendPaymentResponse(status=wallet_pb2.PAYMENT_STATUS_UNKNOWN)
    run.take(Replied("execute_payment", unknown.SerializeToString()))
    assert run.status == "NEEDS_ATTENTION"
    assert run.statuses()["record_transaction"] == "SKIPPED"

    redrive(run)
    run.finish()

    assert run.status == "SUCCEEDED"
    assert run.statuses()["record_transaction"] == "SUCCEEDED"


def test_a_cancel_that_did_not_get_through_is_gone_on_with() -> None:
    run = paying()
    while run.calls != ["execute_payment"]:
        run.do(run.commands[0])
    run.take(CancelRequested("enough", "spiffe://me"))
    while not run.state.finished:
        run.do(run.commands[0], LOST)
    assert run.status == "NEEDS_ATTENTION"

    redrive(run)
    (cancel,) = run.commands
    assert isinstance(cancel, Cancel)
    run.do(cancel)
    run.fail("execute_payment", "FAILED_PRECONDITION", "PAYMENT_CANCELLED")

    assert run.status == "CANCELLED"


@dataclass
class Services:
    """Do each request once per key, however late it comes, and nothing that was cancelled."""

    done: dict[str, set[str]] = field(default_factory=dict)  # path -> keys
    late: list[tuple[str, str]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    def serve(self, run: Drive, command: object, outcome: str) -> Error | str | None:
        """What the engine hears of it."""
        if isinstance(command, Cancel):
            key = run.state.steps[command.path].key
            if outcome not in ("ok", "lost after"):
                return LOST
            if key not in self.done.get(command.path, ()):
                self.cancelled.add(key)
            return None if outcome == "ok" else LOST
        if not isinstance(command, Call):
            return CRASH if outcome == "crash" else None
        path, key = command.path, run.state.steps[command.path].key
        match outcome:
            case "late":
                self.late.append((path, key))
                return LOST
            case "lost":
                return LOST
            case "open":
                return Error("UNAVAILABLE", Reason.BREAKER_OPEN, "open")
            case "refuse" if key not in self.done.get(path, ()):
                return REFUSED
            case "crash":
                self._do(path, key)
                return CRASH
        if not self._do(path, key):
            return Error("FAILED_PRECONDITION", Reason.PAYMENT_CANCELLED, "cancelled")
        return LOST if outcome == "lost after" else None

    def arrive(self) -> None:
        """All that was under way."""
        while self.late:
            self._do(*self.late.pop())

    def _do(self, path: str, key: str) -> bool:
        if key in self.cancelled:
            return False
        self.done.setdefault(path, set()).add(key)
        return True


OUTCOMES = st.sampled_from(
    ["ok", "ok", "ok", "late", "lost", "lost after", "refuse", "refuse", "open", "crash", "defect"]
)


def live(run: Drive, services: Services, happenings: list[tuple[int, str]]) -> None:
    """Let it happen, and have the run go on whenever it can."""
    for which, outcome in happenings:
        if run.state.finished:
            if run.status not in REDRIVABLE:
                return
            try:
                redrive(run, begin=outcome != "crash")
            except FailedPrecondition:
                return
            if outcome == "crash":
                run.state = fold(run.state.run_id, run.journal)
                run.take(Began())
        elif outcome == "defect":
            for path in run.calls:
                services.late.append((path, run.state.steps[path].key))
            end_by_defect(run)
        elif run.commands:
            command = run.commands[which % len(run.commands)]
            run.do(command, services.serve(run, command, outcome))
            if outcome == "late" and which % 2:
                services.arrive()
        replayed = fold(run.state.run_id, run.journal)
        assert replayed == run.state
        assert commands(replayed, POLICY) == run.commands


HAPPENINGS = st.lists(st.tuples(st.integers(0, 9), OUTCOMES), max_size=80)


TWO = steps(call("keep", STORE, UNDO), call("look", READ))
HOSTILE = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["ok", "late", "lost", "refuse", "defect"])),
    min_size=6,
    max_size=30,
)


@settings(deadline=None, max_examples=200)
@given(HOSTILE)
def test_no_step_has_its_effect_twice_while_requests_are_late(
    happenings: list[tuple[int, str]],
) -> None:
    run, services = run_of(TWO, did="d"), Services()

    live(run, services, happenings)
    services.arrive()

    for path in ("keep", "keep/compensate"):
        assert len(services.done.get(path, ())) <= 1


@pytest.mark.parametrize("text", [EVERYTHING, NESTED], ids=["everything", "nested"])
@settings(deadline=None, max_examples=60)
@given(happenings=HAPPENINGS)
def test_no_step_has_its_effect_twice_however_often_the_run_is_redriven(
    text: str, happenings: list[tuple[int, str]]
) -> None:
    run, services = run_of(text, did="d"), Services()

    live(run, services, happenings)
    services.arrive()

    for path, keys in services.done.items():
        step = run.state.steps.get(path)
        assert len(keys) == 1 or (step is not None and step.effect == "READ"), path


@settings(deadline=None, max_examples=250)
@given(HAPPENINGS)
def test_a_payment_has_one_id_and_is_called_what_it_is_however_often_it_is_redriven(
    happenings: list[tuple[int, str]],
) -> None:
    run, services = paying(), Services()

    live(run, services, happenings)
    services.arrive()

    assert services.done.get("execute_payment", set()) <= {run.state.run_id}
    assert len(run.sent.get("execute_payment", set())) <= 1
    is_made = bool(services.done.get("execute_payment"))
    if run.state.finished and run.status != "NEEDS_ATTENTION":
        assert is_made is (run.status == "SUCCEEDED")
