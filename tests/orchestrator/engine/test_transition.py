"""The state machine under every outcome that a world can come up with."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anya.bitcoin.v1 import analysis_pb2, wallet_pb2
from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent
from anya.mesh.v1.features_pb2 import AddressLinks, FeatureVector
from anya.ml.v1 import risk_pb2
from anya.web5.v1 import analysis_pb2 as web5_analysis
from anya.web5.v1 import identity_pb2, record_pb2
from mesh.errors import InvalidArgument
from services.orchestrator import definition
from services.orchestrator.engine import start as rules
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    Due,
    Failed,
    Recovered,
    Replied,
    Started,
    WaitCommand,
)
from services.orchestrator.engine.model import RunState, RunStatus, StepError, StepStatus
from services.orchestrator.engine.records import (
    Record,
    RecordKind,
)
from services.orchestrator.engine.retry_policy import SECOND_US, RetryPolicy
from services.orchestrator.engine.transition import Transition, commands
from tests.orchestrator.definition.definitions import one_step
from tests.orchestrator.engine.engine_run import replay
from tests.orchestrator.payment_requests import INPUT, uuid7
from tests.profile import examples

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from services.orchestrator.engine.activations import Activation, Command

WORKFLOW = definition.load(definition.built_in_text("verified_payment"))
POLICY = RetryPolicy()
SEND = "/anya.bitcoin.v1.WalletService/SendPayment"

REPLIES: dict[str, Message] = {
    "VerifyIdentity": identity_pb2.VerifyIdentityResponse(
        verified=True, confidence=0.9, attestations=[Attestation(kind="identity", jws="a")]
    ),
    "ExtractIdentityFeatures": web5_analysis.ExtractIdentityFeaturesResponse(links=AddressLinks()),
    "ExtractPaymentFeatures": analysis_pb2.ExtractPaymentFeaturesResponse(
        features=FeatureVector(feature_set="payment-risk")
    ),
    "AssessFraudRisk": risk_pb2.AssessFraudRiskResponse(
        risk_score=0.1, attestations=[Attestation(kind="risk", jws="b")]
    ),
    "SendPayment": wallet_pb2.SendPaymentResponse(
        txid=bytes(32), status=wallet_pb2.SEND_OUTCOME_SUCCESS
    ),
    "StoreTransactionRecord": record_pb2.StoreTransactionRecordResponse(record_id="r"),
}

# What may come of a call.
OUTCOMES = st.sampled_from(
    [
        None,  # it succeeds
        None,
        None,
        StepError("UNAVAILABLE", "", "gone"),
        StepError("UNAVAILABLE", "CIRCUIT_OPEN", "open"),
        StepError("DEADLINE_EXCEEDED", "", "late"),
        StepError("INTERNAL", "", "defect"),
        StepError("RESOURCE_EXHAUSTED", "OVERLOADED", "full", retry_after_s=0.1),
        StepError("FAILED_PRECONDITION", "PROOF_EXPIRED", "too old"),
        StepError("INVALID_ARGUMENT", "", "nonsense"),
        "crash",  # before the outcome is journalled
    ]
)


def next_command(state: RunState) -> Command | None:
    """Steps of a payment come one by one."""
    wanted = commands(state, POLICY)
    assert len(wanted) <= 1
    return wanted[0] if wanted else None


@dataclass(slots=True)
class World:
    """Drives one run: the journal is what it keeps, everything else dies with a crash."""

    run_id: str = field(default_factory=uuid7)
    now_us: int = 1_700_000_000 * SECOND_US
    journal: list[Record] = field(default_factory=list)
    state: RunState = field(default_factory=lambda: RunState(""))
    sent: dict[str, set[bytes]] = field(default_factory=dict)  # path -> requests
    attempts: dict[str, list[int]] = field(default_factory=dict)

    def start(self) -> None:
        turn = rules.start(
            WORKFLOW, self.request(), POLICY, network="regtest", at_us=self.now_us, jitter=0.5
        )
        turn.apply(Started())
        self.commit(turn)

    def request(self) -> rules.StartRun:
        intent = PaymentIntent(
            network="regtest",
            payment_id=self.run_id,
            sender_did=INPUT["sender_did"],
            sender_address=INPUT["sender_address"],
            recipient_address=INPUT["recipient_address"],
            amount_sat=INPUT["amount"],
        )
        return rules.StartRun(self.run_id, INPUT, intent, "vp", "spiffe://me")

    def take(self, event: Activation) -> None:
        turn = Transition(WORKFLOW, self.state, POLICY, self.now_us, 0.5)
        turn.apply(event)
        self.commit(turn)

    def commit(self, turn: Transition) -> None:
        self.journal += turn.records
        self.state = turn.state

    def crash(self) -> None:
        """Forget all but the journal, as it is stored."""
        self.state = replay(self.run_id, self.journal)
        self.take(Recovered())

    def do(self, command: Command, outcome: StepError | str | None) -> None:
        self.now_us += SECOND_US // 10
        match command, outcome:
            case _, "crash":
                self.crash()
            case WaitCommand(path, until_us), _:
                self.now_us = max(self.now_us, until_us)
                self.take(Due(path))
            case CallCommand(), StepError() as error:
                self.note(command)
                self.take(Failed(command.path, error))
            case CallCommand(), _:
                self.note(command)
                reply = REPLIES[command.method.rpartition("/")[2]]
                self.take(Replied(command.path, reply.SerializeToString()))
            case CancelCommand(path), StepError() as error:
                self.take(CancelFailed(path, error))
            case CancelCommand(path), _:
                self.take(CancelReplied(path))

    def note(self, call: CallCommand) -> None:
        self.sent.setdefault(call.path, set()).add(call.request)
        self.attempts.setdefault(call.path, []).append(call.attempt)

    def finish(self) -> None:
        """Let everything succeed from here on."""
        while (command := next_command(self.state)) is not None:
            self.do(command, None)


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(OUTCOMES, max_size=40))
def test_whatever_happens_a_run_ends_and_its_journal_tells_all(
    outcomes: list[StepError | str | None],
) -> None:
    world = World()
    world.start()
    for outcome in outcomes:
        command = next_command(world.state)
        if command is None:
            break
        world.do(command, outcome)
        assert replay(world.run_id, world.journal) == world.state
    world.finish()

    assert world.state.finished
    assert replay(world.run_id, world.journal) == world.state
    assert [record.sequence for record in world.journal] == list(range(1, len(world.journal) + 1))
    assert all(len(requests) == 1 for requests in world.sent.values())
    for attempts in world.attempts.values():
        assert attempts == sorted(attempts)


@settings(deadline=None, max_examples=examples(100))
@given(st.lists(OUTCOMES, max_size=30), st.data())
def test_a_crash_at_any_point_leaves_the_same_thing_to_do(
    outcomes: list[StepError | str | None], data: st.DataObject
) -> None:
    world = World()
    world.start()
    prefixes = [len(world.journal)]
    states = [deepcopy(world.state)]
    for outcome in outcomes:
        command = next_command(world.state)
        if command is None:
            break
        world.do(command, outcome)
        prefixes.append(len(world.journal))
        states.append(deepcopy(world.state))
    at = data.draw(st.integers(0, len(prefixes) - 1))

    replayed = replay(world.run_id, world.journal[: prefixes[at]])

    assert replayed == states[at]
    assert next_command(replayed) == next_command(states[at])


@settings(deadline=None, max_examples=examples(200))
@given(st.lists(OUTCOMES, max_size=40))
def test_a_payment_that_may_exist_is_never_called_refused_or_failed(
    outcomes: list[StepError | str | None],
) -> None:
    world = World()
    world.start()
    unheard = cancelled = False
    for outcome in outcomes:
        command = next_command(world.state)
        if command is None:
            break
        paying = isinstance(command, CallCommand) and command.method == SEND
        lost = isinstance(outcome, StepError) and outcome.code in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "INTERNAL",
        )
        open_ = isinstance(outcome, StepError) and outcome.reason == "CIRCUIT_OPEN"
        unheard |= paying and not open_ and (lost or outcome == "crash")
        cancelled |= isinstance(command, CancelCommand) and outcome is None
        world.do(command, outcome)

    payment = world.state.steps.get("execute_payment")
    made = payment is not None and payment.status is StepStatus.SUCCEEDED
    if world.state.finished and (made or (unheard and not cancelled)):
        assert world.state.status in (RunStatus.SUCCEEDED, RunStatus.NEEDS_ATTENTION)


def test_the_first_intent_is_journalled_with_the_start() -> None:
    world = World()

    world.start()

    assert [record.kind for record in world.journal] == [RecordKind.START, RecordKind.STEP_INTENT]


def test_the_last_answer_and_the_end_are_journalled_together() -> None:
    world = World()
    world.start()
    turns = []
    while (command := next_command(world.state)) is not None:
        before = len(world.journal)
        world.do(command, None)
        turns.append([record.kind for record in world.journal[before:]])

    assert turns[-1] == [RecordKind.STEP_DONE, RecordKind.FINISH]
    assert turns[0] == [RecordKind.STEP_DONE, RecordKind.STEP_INTENT, RecordKind.STEP_INTENT]
    assert world.state.status is RunStatus.SUCCEEDED


def test_a_run_that_is_parked_past_its_deadline_fails_without_paying() -> None:
    world = World()
    world.start()
    world.take(Failed("verify_sender", StepError("UNAVAILABLE", "CIRCUIT_OPEN", "open")))
    world.now_us = world.state.deadline_us

    world.take(Due("verify_sender"))

    assert world.state.status is RunStatus.FAILED
    assert world.state.reason.startswith("verify_sender: DEADLINE_EXCEEDED")


def test_what_the_network_rejected_is_not_a_success() -> None:
    rejected = wallet_pb2.SendPaymentResponse(status=wallet_pb2.SEND_OUTCOME_REJECTED)
    world = World()
    world.start()
    while isinstance(command := next_command(world.state), CallCommand) and command.method != SEND:
        world.do(command, None)

    world.take(Replied("execute_payment", rejected.SerializeToString()))

    assert world.state.status is RunStatus.FAILED
    assert world.state.reason == "execute_payment: status is rejected"


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
def test_an_intent_that_is_not_what_is_paid_is_refused(
    change: dict[str, str | int], field: str
) -> None:
    request = World().request()
    assert request.intent is not None
    for name, value in change.items():
        setattr(request.intent, name, value)

    with pytest.raises(InvalidArgument) as caught:
        rules.start(WORKFLOW, request, POLICY, network="regtest", at_us=1, jitter=0)

    assert caught.value.field == field


@pytest.mark.parametrize("run_id", ["p1", "5f0c4a8e-9f5b-4c7e-8d57-0d3a7f6f2c11", "", "a/b"])
def test_a_payment_id_is_a_uuid_of_version_7(run_id: str) -> None:
    world = World()
    request = world.request()
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
    turn = rules.start(workflow, request, POLICY, network="regtest", at_us=1, jitter=0)

    turn.apply(Started())

    assert turn.state.status is RunStatus.FAILED
    assert "a record holds 1048576" in turn.state.reason
