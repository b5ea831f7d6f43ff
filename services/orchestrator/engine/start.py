"""The start of a run: the checks of its request, and its first record."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.errors import InvalidArgument, Reason
from services.orchestrator.definition import values
from services.orchestrator.engine import request_checks
from services.orchestrator.engine.model import RunState
from services.orchestrator.engine.records import MAX_PAYLOAD_BYTES, PayloadTooLargeError
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import Transition

if TYPE_CHECKING:
    from collections.abc import Callable

    from anya.mesh.v1.attestation_pb2 import PaymentIntent
    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.retry_policy import RetryPolicy


@dataclass(frozen=True, slots=True)
class StartRun:
    """A request to start a run."""

    run_id: str
    input: dict[str, Any]
    intent: PaymentIntent | None
    presentation: str
    started_by: str  # SPIFFE ID
    allowed_privileges: frozenset[str] | None = None  # that the run may use; None: all
    payments: tuple[request_checks.ProvenRequest, ...] = ()  # that its input names


def start(
    workflow: Workflow,
    request: StartRun,
    policy: RetryPolicy,
    *,
    network: str,
    at_us: int,
    jitter: float,
    event_position: int | None = None,
    clock: Callable[[], float] | None = None,
) -> Transition:
    """Returns the transition that starts the run. Raises InvalidArgument that names the field."""
    request_checks.check_run_id(request.run_id)
    request_checks.check_presentation(request.presentation, field="presentation")
    try:
        workflow.inputs.check(request.input)
    except values.MismatchError as error:
        field = ".".join(("input", *map(str, error.pointer)))
        raise InvalidArgument(f"input of {workflow.id}: {error}", field=field) from None
    _check_payments(workflow, request, network)
    state = RunState(request.run_id)
    transition = Transition(
        workflow, state, policy, at_us, jitter, event_position=event_position, clock=clock
    )
    try:
        transition.start(_start_payload(workflow, request, policy, at_us))
    except PayloadTooLargeError:
        raise InvalidArgument(
            f"input, intents and presentations exceed {MAX_PAYLOAD_BYTES} bytes", field="input"
        ) from None
    return transition


def _start_payload(
    workflow: Workflow, request: StartRun, policy: RetryPolicy, at_us: int
) -> dict[str, Any]:
    allowed = request.allowed_privileges
    return {
        "workflow_id": workflow.id,
        "definition_hash": workflow.hash,
        "sub_workflow_hashes": workflow.sub_workflow_hashes,
        "input": request.input,
        "intent": _encode(request.intent),
        "presentation": request.presentation,
        "started_by": request.started_by,
        "allowed_privileges": None if allowed is None else sorted(allowed),
        **({"payments": _encode_payments(request)} if request.payments else {}),
        "deadline_us": at_us + (workflow.deadline_us or int(policy.run_timeout_s * SECOND_US)),
    }


def _encode_payments(request: StartRun) -> list[dict[str, str]]:
    return [
        {"intent": _encode(payment.intent), "presentation": payment.presentation}
        for payment in request.payments
    ]


def _encode(intent: PaymentIntent | None) -> str:
    return b64encode(intent.SerializeToString(deterministic=True) if intent else b"").decode()


def _check_payments(workflow: Workflow, request: StartRun, network: str) -> None:
    """Checks that the request proves the payments that the workflow makes."""
    if workflow.names_payments:
        if request.intent is not None or request.presentation:
            field = "intent" if request.intent is not None else "presentation"
            message = f"{workflow.id} makes payments that its input names: send them in payments"
            raise InvalidArgument(message, reason=Reason.INTENT_INVALID, field=field)
        request_checks.check_several(workflow, request.input, request.payments, network)
        if any(one.intent and one.intent.payment_id == request.run_id for one in request.payments):
            message = "this is the id of a payment: give a run of several payments an id of its own"
            raise InvalidArgument(message, reason=Reason.REQUEST_ID_INVALID, field="request_id")
    elif request.payments:
        message = f"{workflow.id} names no payments: leave them out"
        if workflow.pivots:
            message = f"{workflow.id} makes one payment: send its intent and presentation"
        raise InvalidArgument(message, reason=Reason.INTENT_INVALID, field="payments")
    elif workflow.pivots:
        request_checks.check_one(request.run_id, request.intent, request.input, network)
