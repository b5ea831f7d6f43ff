"""The state machine of a run under every outcome of its calls."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anya.bitcoin.v1 import wallet_pb2
from mesh.errors import InvalidArgument
from services.orchestrator import definition
from services.orchestrator.engine import start as rules
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    Due,
    Failed,
    Replied,
    Started,
)
from services.orchestrator.engine.model import RunState, RunStatus, StepError, StepStatus
from services.orchestrator.engine.records import (
    RecordKind,
)
from services.orchestrator.engine.transition import commands
from tests.orchestrator.definition.definitions import one_step
from tests.orchestrator.engine.engine_run import CRASH, POLICY, paying, payment_run, replay
from tests.orchestrator.payment_requests import INPUT
from tests.profile import examples

if TYPE_CHECKING:
    from services.orchestrator.engine.activations import Command

WORKFLOW = definition.load(definition.built_in_text("verified_payment"))
SEND = "/anya.bitcoin.v1.WalletService/SendPayment"

# The outcomes of a command; None: it succeeds.
OUTCOMES = st.sampled_from(
    [
        *(None, None, None),
        StepError("UNAVAILABLE", "", "gone"),
        StepError("UNAVAILABLE", "BREAKER_OPEN", "open"),
        StepError("DEADLINE_EXCEEDED", "", "late"),
        StepError("INTERNAL", "", "defect"),
        StepError("RESOURCE_EXHAUSTED", "OVERLOADED", "full", retry_after_s=0.1),
        StepError("FAILED_PRECONDITION", "PROOF_EXPIRED", "too old"),
        StepError("INVALID_ARGUMENT", "", "nonsense"),
        CRASH,
    ]
)


def next_command(state: RunState) -> Command | None:
    """Returns the only command: the steps of a payment run one after the other."""
    wanted = commands(state, POLICY)
    assert len(wanted) <= 1
    return wanted[0] if wanted else None


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(OUTCOMES, max_size=40))
def test_a_run_ends_and_its_records_fold_to_its_state(
    outcomes: list[StepError | str | None],
) -> None:
    run = paying()
    for outcome in outcomes:
        command = next_command(run.state)
        if command is None:
            break
        run.do(command, outcome)
        assert run.replayed() == run.state
    run.finish()

    assert run.state.finished
    assert run.replayed() == run.state
    assert [record.sequence for record in run.journal] == list(range(1, len(run.journal) + 1))
    assert all(len(requests) == 1 for requests in run.sent.values())
    for attempts in run.attempts.values():
        assert attempts == sorted(attempts)


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(OUTCOMES, max_size=30), st.data())
def test_a_crash_at_any_point_leaves_the_same_command(
    outcomes: list[StepError | str | None], data: st.DataObject
) -> None:
    run = paying()
    prefixes = [len(run.journal)]
    states = [deepcopy(run.state)]
    for outcome in outcomes:
        command = next_command(run.state)
        if command is None:
            break
        run.do(command, outcome)
        prefixes.append(len(run.journal))
        states.append(deepcopy(run.state))
    at = data.draw(st.integers(0, len(prefixes) - 1))

    replayed = replay(run.state.run_id, run.journal[: prefixes[at]])

    assert replayed == states[at]
    assert next_command(replayed) == next_command(states[at])


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(OUTCOMES, max_size=40))
def test_a_payment_that_may_exist_is_never_called_refused_or_failed(
    outcomes: list[StepError | str | None],
) -> None:
    run = paying()
    unanswered = cancelled = False
    for outcome in outcomes:
        command = next_command(run.state)
        if command is None:
            break
        is_payment = isinstance(command, CallCommand) and command.method == SEND
        lost = isinstance(outcome, StepError) and outcome.code in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "INTERNAL",
        )
        open_ = isinstance(outcome, StepError) and outcome.reason == "BREAKER_OPEN"
        unanswered |= is_payment and not open_ and (lost or outcome == CRASH)
        cancelled |= isinstance(command, CancelCommand) and outcome is None
        run.do(command, outcome)

    payment = run.state.steps.get("execute_payment")
    made = payment is not None and payment.status is StepStatus.SUCCEEDED
    if run.state.finished and (made or (unanswered and not cancelled)):
        assert run.state.status in (RunStatus.SUCCEEDED, RunStatus.NEEDS_ATTENTION)


def test_the_first_step_begins_in_the_commit_of_the_start() -> None:
    run = paying()

    assert [record.kind for record in run.journal] == [RecordKind.START, RecordKind.STEP_INTENT]


def test_the_last_reply_and_the_end_are_one_commit() -> None:
    run = paying()
    commits = []
    while (command := next_command(run.state)) is not None:
        before = len(run.journal)
        run.do(command, None)
        commits.append([record.kind for record in run.journal[before:]])

    assert commits[-1] == [RecordKind.STEP_DONE, RecordKind.FINISH]
    assert commits[0] == [RecordKind.STEP_DONE, RecordKind.STEP_INTENT, RecordKind.STEP_INTENT]
    assert run.state.status is RunStatus.SUCCEEDED


def test_a_run_whose_circuit_is_open_past_its_deadline_fails_without_paying() -> None:
    run = paying()
    run.apply(Failed("verify_sender", StepError("UNAVAILABLE", "BREAKER_OPEN", "open")))
    run.now_us = run.state.deadline_us

    run.apply(Due("verify_sender"))

    assert run.state.status is RunStatus.FAILED
    assert run.state.reason.startswith("verify_sender: DEADLINE_EXCEEDED")


def test_a_payment_that_the_network_rejects_fails_the_run() -> None:
    rejected = wallet_pb2.SendPaymentResponse(status=wallet_pb2.SEND_OUTCOME_REJECTED)
    run = paying()
    while isinstance(command := next_command(run.state), CallCommand) and command.method != SEND:
        run.do(command, None)

    run.apply(Replied("execute_payment", rejected.SerializeToString()))

    assert run.state.status is RunStatus.FAILED
    assert run.state.reason == "execute_payment: status is rejected"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sender_did": "did:key:other"}, "intent.sender_did"),
        ({"recipient_address": "other"}, "intent.recipient_address"),
        ({"amount_sat": 49_999}, "intent.amount_sat"),
        ({"payment_id": "0198c0de-0000-7000-8000-000000000000"}, "intent.payment_id"),
        ({"network": "main"}, "intent.network"),
        ({"sender_address": ""}, "intent.sender_address"),
    ],
    ids=str,
)
def test_an_intent_that_differs_from_the_input_is_refused(
    change: dict[str, str | int], field: str
) -> None:
    request = payment_run().request()
    assert request.intent is not None
    for name, value in change.items():
        setattr(request.intent, name, value)

    with pytest.raises(InvalidArgument) as caught:
        rules.start(WORKFLOW, request, POLICY, network="regtest", at_us=1, jitter=0)

    assert caught.value.field == field


@pytest.mark.parametrize("run_id", ["p1", "5f0c4a8e-9f5b-4c7e-8d57-0d3a7f6f2c11", "", "a/b"])
def test_a_payment_id_is_a_uuid_of_version_7(run_id: str) -> None:
    request = payment_run().request()
    assert request.intent is not None
    request.intent.payment_id = run_id
    request = rules.StartRun(run_id, INPUT, request.intent, "vp", "spiffe://me")

    with pytest.raises(InvalidArgument):
        rules.start(WORKFLOW, request, POLICY, network="regtest", at_us=1, jitter=0)


def test_a_payload_beyond_its_bound_fails_the_step_before_anything_is_sent() -> None:
    shouting = one_step(
        protocol="web5",
        operation="extract_identity_features",
        input_mapping={"did": "{{input.did}}" * 40},
        output_mapping={},
    )
    workflow = definition.load(json.dumps(shouting))
    request = rules.StartRun("r1", {"did": "d" * 40_000}, None, "", "spiffe://me")
    transition = rules.start(workflow, request, POLICY, network="regtest", at_us=1, jitter=0)

    transition.apply(Started())

    assert transition.state.status is RunStatus.FAILED
    assert "a record holds 1048576" in transition.state.reason
