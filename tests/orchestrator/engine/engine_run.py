"""Drives a run of any workflow through the state machine, in whatever order things happen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anya.bitcoin.v1 import analysis_pb2, wallet_pb2
from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent
from anya.mesh.v1.features_pb2 import AddressLinks, FeatureVector
from anya.ml.v1 import risk_pb2
from anya.web5.v1 import analysis_pb2 as web5_analysis
from anya.web5.v1 import identity_pb2, record_pb2
from services.orchestrator import definition
from services.orchestrator.engine import start
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    DecisionReceived,
    Due,
    EventReceived,
    Failed,
    Recovered,
    Replied,
    Started,
    WaitCommand,
)
from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.model import RunState, StepError
from services.orchestrator.engine.records import decode
from services.orchestrator.engine.request_checks import ProvenRequest
from services.orchestrator.engine.retry_policy import SECOND_US, RetryPolicy
from services.orchestrator.engine.transition import Transition, commands
from tests.orchestrator.engine.definitions import INNER
from tests.orchestrator.payment_requests import INPUT, uuid7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.activations import Activation, Command
    from services.orchestrator.engine.records import Record

POLICY = RetryPolicy()
CRASH = "crash"  # before the outcome is journalled

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
    "CancelPayment": wallet_pb2.CancelPaymentResponse(
        payment=wallet_pb2.Payment(state=wallet_pb2.PAYMENT_STATE_CANCELLED)
    ),
    "StoreTransactionRecord": record_pb2.StoreTransactionRecordResponse(record_id="r"),
}


@dataclass(slots=True)
class Drive:
    """The journal is what it keeps, everything else dies with a crash."""

    workflow: Workflow
    given: dict[str, Any]
    intent: PaymentIntent | None = None
    state: RunState = field(default_factory=lambda: RunState("run"))
    now_us: int = 1_700_000_000 * SECOND_US
    journal: list[Record] = field(default_factory=list)
    sent: dict[str, set[bytes]] = field(default_factory=dict)  # path -> requests
    ceiling: frozenset[str] | None = None
    proven: tuple[ProvenRequest, ...] = ()
    events: int = 0  # emitted in the store so far

    def start(self) -> Drive:
        run_id = self.state.run_id
        request = start.StartRun(
            run_id, self.given, self.intent, "", "spiffe://me", self.ceiling, self.proven
        )
        turn = start.start(
            self.workflow,
            request,
            POLICY,
            network="regtest",
            at_us=self.now_us,
            jitter=0.5,
            event_position=self.events,
        )
        turn.apply(Started())
        self._commit(turn)
        return self

    @property
    def commands(self) -> list[Command]:
        return commands(self.state, POLICY)

    @property
    def status(self) -> str:
        return self.state.status.value

    @property
    def calls(self) -> list[str]:
        """Paths of the calls under way."""
        return [command.path for command in self.commands if isinstance(command, CallCommand)]

    def take(self, event: Activation) -> None:
        turn = Transition(
            self.workflow, self.state, POLICY, self.now_us, 0.5, event_position=self.events
        )
        turn.apply(event)
        self._commit(turn)

    def crash(self) -> None:
        """Forget all but the journal."""
        self.state = self.replayed()
        self.take(Recovered())

    def replayed(self) -> RunState:
        """What somebody else makes of the journal."""
        return replay(self.state.run_id, self.journal)

    def do(self, command: Command, outcome: StepError | Message | str | None = None) -> None:
        """Let it end so: as usual, in an error, with another reply, or in a crash."""
        self.now_us += SECOND_US // 10
        match command, outcome:
            case _, "crash":
                self.crash()
            case WaitCommand(path), None if {"events", "asked"} & self.state.steps[
                path
            ].input.keys():
                self.give(path)
            case WaitCommand(path, until_us), _:
                self.now_us = max(self.now_us, until_us)
                self.take(Due(path))
            case CallCommand(path, request=request), _:
                self.sent.setdefault(path, set()).add(request)
                if isinstance(outcome, StepError):
                    self.take(Failed(path, outcome))
                else:
                    usual = REPLIES[command.method.rpartition("/")[2]]
                    reply = usual if outcome is None or isinstance(outcome, str) else outcome
                    self.take(Replied(path, reply.SerializeToString()))
            case CancelCommand(path), StepError() as error:
                self.take(CancelFailed(path, error))
            case CancelCommand(path), _:
                self.take(CancelReplied(path))

    def give(self, path: str) -> None:
        """What a step waits for, or a part of it."""
        step = self.state.steps[path]
        asked = step.input.get("asked")
        if asked:
            open_ = [did for did in asked["approvers"] if did not in step.decisions]
            self.decide(path, open_[0])
        else:
            missing = [type for type in step.input["events"] if type not in step.received_events]
            self.hear(missing[0], subject=step.input["correlation"] or "")

    def decide(self, path: str, did: str, *, approves: bool = True) -> None:
        digest = self.state.steps[path].input["digest"]
        position = self.state.inbox_position + 1
        self.take(DecisionReceived(path, did, approves, digest, f"jws of {did}", position))

    def expire(self, path: str) -> None:
        """The time that the step waits for is over."""
        self.take(Due(path))

    def hear(
        self, type: str, *, subject: str = "", run_id: str = "other", emitted: int = 1, **data: Any
    ) -> None:
        self.events += 1
        self.take(EventReceived(type, subject, data, self.events, run_id, emitted))

    def at(self, path: str) -> Command:
        return next(command for command in self.commands if command.path == path)

    def reply(self, *paths: str) -> None:
        for path in paths:
            self.do(self.at(path))

    def fail(self, path: str, code: str = "NOT_FOUND", reason: str = "") -> None:
        self.do(self.at(path), StepError(code, reason, "said the service"))

    def finish(self) -> None:
        """Let everything succeed from here on."""
        while self.commands:
            self.do(self.commands[0])

    def statuses(self) -> dict[str, str]:
        return {path: step.status.value for path, step in self.state.steps.items()}

    def _commit(self, turn: Transition) -> None:
        self.journal += turn.records
        self.state = turn.state


def replay(run_id: str, journal: Sequence[Record]) -> RunState:
    """Fold records as they are stored: they share nothing with the state that they were made of."""
    return fold(run_id, [decode(*record[:5], record.encoded) for record in journal])


def paying(ceiling: frozenset[str] | None = None, text: str = "") -> Drive:
    """A run of the verified payment, or of another definition with its input, begun."""
    workflow = definition.load(text or definition.built_in_text("verified_payment"))
    run_id = uuid7()
    intent = PaymentIntent(
        network="regtest",
        payment_id=run_id,
        sender_did=INPUT["sender_did"],
        sender_address=INPUT["sender_address"],
        recipient_address=INPUT["recipient_address"],
        amount_sat=INPUT["amount"],
    )
    return Drive(workflow, INPUT, intent, RunState(run_id), ceiling=ceiling).start()


def paying_several(
    text: str, given: dict[str, Any], *intents: PaymentIntent, ceiling: frozenset[str] | None = None
) -> Drive:
    """A run that makes these payments, begun."""
    proven = tuple(ProvenRequest(one, f"vp of {one.payment_id}") for one in intents)
    return Drive(definition.load(text), given, ceiling=ceiling, proven=proven).start()


def run_of(text: str, **given: Any) -> Drive:
    """A run of a definition, begun."""
    known = definition.operations().with_workflow(definition.load(INNER))
    return Drive(definition.load(text, known), given).start()


def bounded(text: str, ceiling: frozenset[str], **given: Any) -> Drive:
    """A run that may use these privileges."""
    return Drive(definition.load(text), given, ceiling=ceiling).start()
