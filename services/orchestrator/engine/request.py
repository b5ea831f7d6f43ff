"""The bytes that a step sends: made once, journalled, and the same for every attempt."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent, RunContext
from services.orchestrator.definition import values
from services.orchestrator.definition.workflow import Effect
from services.orchestrator.engine import step_path
from services.orchestrator.engine.model import ProvenPayment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from services.orchestrator.definition.workflow import Method
    from services.orchestrator.engine.model import RunState

FIRST_ITERATION = "0"


def effect_key(state: RunState, path: str, effect: Effect, payment: str) -> str:
    """The request_id of a step's every attempt. A payment's is its own id, or else the run's.

    A step that was refused and is redriven has a key of its own: RUN/STEP/0/1.
    """
    if effect is Effect.PIVOT:
        return payment or state.run_id
    iteration = ".".join(step_path.item_indices(path)) or FIRST_ITERATION
    key = f"{state.run_id}/{step_path.template_path(path)}/{iteration}"
    return f"{key}/{state.retired_keys[path]}" if path in state.retired_keys else key


def build_request(
    method: Method, resolved: dict[str, Any], key: str, state: RunState, payment: str
) -> bytes:
    """Mismatch if the resolved input does not fit the request."""
    request = method.request()
    values.fill(request, resolved)
    takes_key, takes_context = _takes(request.DESCRIPTOR)
    if takes_key:
        setattr(request, "request_id", key)  # noqa: B010  (no static type has the field)
    if takes_context:
        getattr(request, "context").CopyFrom(_context(state, payment))  # noqa: B009
    return request.SerializeToString(deterministic=True)


@lru_cache(maxsize=1024)
def _takes(request: Descriptor) -> tuple[bool, bool]:
    """Does a request name its id, and what is known of the payment?"""
    return "request_id" in request.fields_by_name, "context" in request.fields_by_name


def build_cancel(method: Method, key: str) -> bytes:
    """A cancel's request has one field: the id of what to refuse."""
    request = method.request()
    setattr(request, request.DESCRIPTOR.fields[0].name, key)
    return request.SerializeToString(deterministic=True)


def attestations_of(reply: Message) -> list[list[str]]:
    """What a reply attests for later steps: kind and JWS of each."""
    if not _attests(reply.DESCRIPTOR):
        return []
    attestations: Iterable[Attestation] = getattr(reply, "attestations")  # noqa: B009
    return [[attestation.kind, attestation.jws] for attestation in attestations]


@lru_cache(maxsize=1024)
def _attests(reply: Descriptor) -> bool:
    declared = reply.fields_by_name.get("attestations")
    return declared is not None and declared.message_type is Attestation.DESCRIPTOR


def _context(state: RunState, payment: str) -> RunContext:
    """What is known of the step's payment, and of no other."""
    proven = state.payments[payment] if payment else ProvenPayment(state.intent, state.presentation)
    context = RunContext(presentation=proven.presentation)
    if proven.intent:
        context.intent.CopyFrom(PaymentIntent.FromString(proven.intent))
    for attested in state.attestations:
        if attested.payment == payment:
            context.attestations.add(kind=attested.kind, jws=attested.jws)
    return context
