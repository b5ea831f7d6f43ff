"""Erased records describe the same run, without personal data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.engine.erase import MARK, erase
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.outcome import public_reason
from tests.orchestrator.engine.definitions import EVERYTHING, NESTED
from tests.orchestrator.engine.engine_run import EngineRun, paying, paying_several, replay, run_of
from tests.orchestrator.multi_payment import PAIR, intent, pair_of
from tests.orchestrator.payment_requests import INPUT
from tests.profile import examples

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.engine.model import RunState
    from services.orchestrator.engine.records import Record

PERSON = "did:key:z6MkPerson"
RUNS: dict[str, Callable[[], EngineRun]] = {
    "a payment": paying,
    "two payments": lambda: two_payments(),
    "everything": lambda: run_of(EVERYTHING, did=PERSON),
    "steps inside steps": lambda: run_of(NESTED, did=PERSON),
}
OUTCOMES = st.one_of(
    st.none(),
    st.just("crash"),
    st.sampled_from(["UNAVAILABLE", "INTERNAL", "NOT_FOUND", "FAILED_PRECONDITION"]).map(
        lambda code: StepError(code, "", f"{PERSON} said the service")
    ),
)


def two_payments() -> EngineRun:
    first, second = intent(), intent()
    return paying_several(PAIR, pair_of(first, second), first, second)


def erased(run: EngineRun) -> list[Record]:
    return list(erase(run.journal, public_reason(run.state)))


def outline(state: RunState) -> list[object]:
    """Returns the parts of the state that hold no personal data."""
    steps = [
        (s.path, s.operation, s.status, s.attempt, s.started_us, s.finished_us, s.skip_reason)
        for s in state.steps.values()
    ]
    errors = [(s.error.code, s.error.reason) for s in state.steps.values() if s.error]
    return [state.status, state.sequence, state.finished_us, state.recoveries, steps, errors]


@pytest.mark.parametrize("kind", RUNS)
@settings(deadline=None, max_examples=examples(30))
@given(outcomes=st.lists(OUTCOMES, max_size=25))
def test_erased_records_fold_to_the_same_run_without_personal_data(
    kind: str, outcomes: list[StepError | str | None]
) -> None:
    run = RUNS[kind]()
    for outcome in outcomes:
        if run.commands:
            run.do(run.commands[0], outcome)
    run.finish()

    left = erased(run)

    again = replay(run.state.run_id, left)
    assert outline(again) == outline(run.state)
    assert again.reason == public_reason(run.state)
    assert again.input == MARK
    stored = b"".join(record.encoded for record in left)
    assert PERSON.encode() not in stored
    assert INPUT["sender_did"].encode() not in stored
    assert b"did:example:" not in stored


@pytest.mark.parametrize("kind", RUNS)
def test_erasing_erased_records_changes_nothing(kind: str) -> None:
    run = RUNS[kind]()
    run.finish()

    left = erased(run)

    assert list(erase(left, public_reason(run.state))) == left


def test_erased_payments_keep_only_their_ids() -> None:
    run = two_payments()
    run.finish()

    left = replay(run.state.run_id, erased(run))

    assert left.payments.keys() == run.state.payments.keys()
    assert {one.presentation for one in left.payments.values()} == {"(erased)"}
    assert left.steps["pay2"].payment == run.state.steps["pay2"].payment


def test_a_key_that_is_unknown_is_erased() -> None:
    run = paying()
    run.finish()
    first = run.journal[0]
    payload = {**first.payload, "nickname": PERSON, "age": 41, "friends": [PERSON]}

    (left,) = erase([first._replace(payload=payload)], "")

    assert left.payload["nickname"] == "(erased)"
    assert left.payload["age"] == left.payload["friends"] == MARK


def test_messages_of_a_method_without_a_contract_are_erased() -> None:
    run = paying()
    run.finish()
    method = "/anya.web5.v1.IdentityService/Forgotten"
    journal = [
        record._replace(payload={**record.payload, "method": method})
        if "method" in record.payload
        else record
        for record in run.journal
    ]

    left = replay(run.state.run_id, list(erase(journal, "")))

    assert left.steps["verify_sender"].reply == MARK
    assert left.steps["verify_sender"].input == MARK
