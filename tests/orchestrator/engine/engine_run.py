"""Runs of any workflow in the state machine alone, in any order of outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from anya.bitcoin.v1 import analysis_pb2, wallet_pb2
from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent
from anya.mesh.v1.features_pb2 import AddressLinks, FeatureVector
from anya.ml.v1 import risk_pb2
from anya.web5.v1 import analysis_pb2 as web5_analysis
from anya.web5.v1 import identity_pb2, record_pb2
from services.orchestrator import definition
from services.orchestrator.engine import start as rules
from services.orchestrator.engine.activations import (
    CallCommand,
    CancelCommand,
    CancelFailed,
    CancelReplied,
    Continued,
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
CRASH = "crash"  # before the outcome is recorded

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
class EngineRun:
    """A run whose records are stored, and whose state a crash loses."""

    workflow: Workflow
    given: dict[str, Any]
    intent: PaymentIntent | None = None
    state: RunState = field(default_factory=lambda: RunState("run"))
    now_us: int = 1_700_000_000 * SECOND_US
    journal: list[Record] = field(default_factory=list)
    sent: dict[str, set[bytes]] = field(default_factory=dict)  # path -> requests
    attempts: dict[str, list[int]] = field(default_factory=dict)  # path -> attempts sent
    allowed: frozenset[str] | None = None
    proven: tuple[ProvenRequest, ...] = ()
    events: int = 0  # emitted in the store so far

    def start(self) -> EngineRun:
        transition = rules.start(
            self.workflow,
            self.request(),
            POLICY,
            network="regtest",
            at_us=self.now_us,
            jitter=0.5,
            event_position=self.events,
        )
        transition.apply(Started())
        self._commit(transition)
        return self

    def request(self) -> rules.StartRun:
        return rules.StartRun(
            run_id=self.state.run_id,
            input=self.given,
            intent=self.intent,
            presentation="",
            started_by="spiffe://me",
            allowed_privileges=self.allowed,
            payments=self.proven,
        )

    @property
    def commands(self) -> list[Command]:
        return commands(self.state, POLICY)

    @property
    def status(self) -> str:
        return self.state.status.value

    @property
    def calls(self) -> list[str]:
        """Paths of the calls in flight."""
        return [command.path for command in self.commands if isinstance(command, CallCommand)]

    def apply(self, activation: Activation) -> None:
        transition = Transition(
            self.workflow, self.state, POLICY, self.now_us, 0.5, event_position=self.events
        )
        transition.apply(activation)
        self._commit(transition)

    def crash(self) -> None:
        """Loses all but the records."""
        self.state = self.replayed()
        self.apply(Recovered())
        if not self.state.finished:
            self.apply(Continued())

    def replayed(self) -> RunState:
        """Returns the state that another process folds."""
        return replay(self.state.run_id, self.journal)

    def do(self, command: Command, outcome: StepError | Message | str | None = None) -> None:
        """Ends the command: with its usual reply, an error, another reply, or a crash."""
        self.now_us += SECOND_US // 10
        match command, outcome:
            case _, "crash":
                self.crash()
            case WaitCommand(path), None if {"events", "asked"} & self.state.steps[
                path
            ].input.keys():
                self.deliver(path)
            case WaitCommand(path, until_us), _:
                self.now_us = max(self.now_us, until_us)
                self.apply(Due(path))
            case CallCommand(path, request=request), _:
                self.sent.setdefault(path, set()).add(request)
                self.attempts.setdefault(path, []).append(command.attempt)
                if isinstance(outcome, StepError):
                    self.apply(Failed(path, outcome))
                else:
                    usual = REPLIES[command.method.rpartition("/")[2]]
                    reply = usual if outcome is None or isinstance(outcome, str) else outcome
                    self.apply(Replied(path, reply.SerializeToString()))
            case CancelCommand(path), StepError() as error:
                self.apply(CancelFailed(path, error))
            case CancelCommand(path), _:
                self.apply(CancelReplied(path))

    def deliver(self, path: str) -> None:
        """Delivers the next event or decision that the step waits for."""
        step = self.state.steps[path]
        asked = step.input.get("asked")
        if asked:
            open_ = [did for did in asked["approvers"] if did not in step.decisions]
            self.decide(path, open_[0])
        else:
            missing = [type for type in step.input["events"] if type not in step.received_events]
            self.receive(missing[0], subject=step.input["correlation"] or "")

    def decide(self, path: str, did: str, *, approved: bool = True) -> None:
        digest = self.state.steps[path].input["digest"]
        position = self.state.inbox_position + 1
        self.apply(DecisionReceived(path, did, approved, digest, f"jws of {did}", position))

    def expire(self, path: str) -> None:
        """Ends the time that the step waits for."""
        self.apply(Due(path))

    def receive(
        self, type: str, *, subject: str = "", run_id: str = "other", emitted: int = 1, **data: Any
    ) -> None:
        self.events += 1
        self.apply(EventReceived(type, subject, data, self.events, run_id, emitted))

    def at(self, path: str) -> Command:
        return next(command for command in self.commands if command.path == path)

    def reply(self, *paths: str) -> None:
        for path in paths:
            self.do(self.at(path))

    def fail(self, path: str, code: str = "NOT_FOUND", reason: str = "") -> None:
        self.do(self.at(path), StepError(code, reason, "said the service"))

    def finish(self) -> None:
        """Lets every command succeed from here on."""
        while self.commands:
            self.do(self.commands[0])

    def statuses(self) -> dict[str, str]:
        return {path: step.status.value for path, step in self.state.steps.items()}

    def _commit(self, transition: Transition) -> None:
        self.journal += transition.records
        self.state = transition.state


def replay(run_id: str, journal: Sequence[Record]) -> RunState:
    """Folds records as they are stored: they share nothing with the state that they came from."""
    return fold(run_id, [decode(*record[:5], record.encoded) for record in journal])


def paying(allowed: frozenset[str] | None = None, text: str = "") -> EngineRun:
    """Starts a run of the verified payment, or of another definition with its input."""
    return payment_run(allowed, text).start()


def payment_run(allowed: frozenset[str] | None = None, text: str = "") -> EngineRun:
    """Returns such a run before it starts."""
    workflow = load(text or definition.built_in_text("verified_payment"))
    run_id = uuid7()
    intent = PaymentIntent(
        network="regtest",
        payment_id=run_id,
        sender_did=INPUT["sender_did"],
        sender_address=INPUT["sender_address"],
        recipient_address=INPUT["recipient_address"],
        amount_sat=INPUT["amount"],
    )
    return EngineRun(workflow, INPUT, intent, RunState(run_id), allowed=allowed)


def paying_several(
    text: str, given: dict[str, Any], *intents: PaymentIntent, allowed: frozenset[str] | None = None
) -> EngineRun:
    """Starts a run that makes these payments."""
    proven = tuple(ProvenRequest(one, f"vp of {one.payment_id}") for one in intents)
    return EngineRun(load(text), given, allowed=allowed, proven=proven).start()


def run_of(text: str, **given: Any) -> EngineRun:
    """Starts a run of a definition."""
    return EngineRun(load(text), given).start()


@lru_cache(maxsize=64)
def load(text: str) -> Workflow:
    """Returns the workflow, which may run INNER."""
    known = definition.operations().with_workflow(definition.load(INNER))
    return definition.load(text, known)


def bounded(text: str, allowed: frozenset[str], **given: Any) -> EngineRun:
    """Starts a run that may use these privileges."""
    return EngineRun(load(text), given, allowed=allowed).start()
