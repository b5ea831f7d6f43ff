"""What it takes to start a run: an input that its steps can read, and for a payment its intent."""

from __future__ import annotations

import re
import uuid
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.attestation import payment_digest
from mesh.errors import InvalidArgument, Reason
from services.orchestrator.definition import values
from services.orchestrator.engine.machine import Turn
from services.orchestrator.engine.policy import SECOND
from services.orchestrator.engine.record import MAX_PAYLOAD, Kind, PayloadTooLarge
from services.orchestrator.engine.state import RunState

if TYPE_CHECKING:
    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.policy import Policy

MAX_RUN_ID = 64  # characters: with a step's path it must fit a request_id
MAX_PRESENTATION = 64 * 1024  # characters

_RUN_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_RUN_ID - 1}}}")


@dataclass(frozen=True, slots=True)
class StartRun:
    run_id: str
    input: dict[str, Any]
    intent: PaymentIntent | None
    presentation: str
    starter: str  # SPIFFE ID
    ceiling: frozenset[str] | None = None  # privileges that the run may use; None: all


def start(
    workflow: Workflow,
    request: StartRun,
    policy: Policy,
    *,
    network: str,
    at_us: int,
    jitter: float,
) -> Turn:
    """The turn that starts a run. InvalidArgument naming the field that keeps it from starting."""
    _check_run_id(request.run_id)
    if len(request.presentation) > MAX_PRESENTATION:
        raise InvalidArgument(
            f"presentation must be at most {MAX_PRESENTATION} characters", field="presentation"
        )
    try:
        workflow.inputs.check(request.input)
    except values.Mismatch as error:
        field = ".".join(("input", *map(str, error.pointer)))
        raise InvalidArgument(f"input of {workflow.id}: {error}", field=field) from None
    if workflow.pivots:
        _check_payment(request, network)
    turn = Turn(workflow, RunState(request.run_id), policy, at_us, jitter)
    try:
        turn.add(Kind.START, "", _start_payload(workflow, request, policy, at_us))
    except PayloadTooLarge:
        raise InvalidArgument(
            f"input, intent and presentation exceed {MAX_PAYLOAD} bytes", field="input"
        ) from None
    return turn


def _start_payload(
    workflow: Workflow, request: StartRun, policy: Policy, at_us: int
) -> dict[str, Any]:
    intent = request.intent.SerializeToString(deterministic=True) if request.intent else b""
    return {
        "workflow_id": workflow.id,
        "definition_hash": workflow.hash,
        "composites": workflow.composites,
        "input": request.input,
        "intent": b64encode(intent).decode(),
        "presentation": request.presentation,
        "starter": request.starter,
        "ceiling": None if request.ceiling is None else sorted(request.ceiling),
        "deadline_us": at_us + (workflow.deadline_us or int(policy.run_deadline * SECOND)),
    }


def _check_run_id(run_id: str) -> None:
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidArgument(
            f"request_id becomes the run id: 1 to {MAX_RUN_ID} of A-Z, a-z, 0-9, '.', '_' and '-'",
            reason=Reason.REQUEST_ID_INVALID,
            field="request_id",
        )


def _check_payment(request: StartRun, network: str) -> None:
    """A workflow that pays needs the intent of exactly this payment."""
    intent = request.intent
    if intent is None:
        raise InvalidArgument(
            "this workflow pays: send the intent that BeginVerification was called with",
            reason=Reason.INTENT_INVALID,
            field="intent",
        )
    payment_digest(intent)  # refuses what is incomplete or out of bounds
    check_payment_id(request.run_id, field="request_id")
    said = {"payment_id": request.run_id, "network": network}
    input_names = {"amount_sat": "amount"}
    for name in ("sender_did", "sender_address", "recipient_address", "amount_sat"):
        said[name] = request.input.get(input_names.get(name, name), getattr(intent, name))
    for name, value in said.items():
        if getattr(intent, name) != value:
            raise InvalidArgument(
                f"intent.{name} is not what is to be paid: it differs from"
                f" {_origin(name, input_names)}",
                reason=Reason.INTENT_INVALID,
                field=f"intent.{name}",
            )


def check_payment_id(payment_id: str, *, field: str) -> None:
    if not _is_uuid7(payment_id):
        raise InvalidArgument(
            f"{field} is the payment id: a UUID of version 7, in lower case",
            reason=Reason.REQUEST_ID_INVALID,
            field=field,
        )


def _origin(name: str, input_names: dict[str, str]) -> str:
    match name:
        case "payment_id":
            return "request_id"
        case "network":
            return "the network of this mesh"
        case _:
            return f"input.{input_names.get(name, name)}"


def _is_uuid7(text: str) -> bool:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        return False
    return parsed.version == 7 and str(parsed) == text
