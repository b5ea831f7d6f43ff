"""Calls of operations: the request that every attempt sends, retries, and cancellation."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent, RunContext
from services.orchestrator.definition import values
from services.orchestrator.definition.templates import UnresolvedPathError, resolve
from services.orchestrator.definition.workflow import MAX_STEPS_PER_RUN, Effect, Method, Workflow
from services.orchestrator.engine import outcome, permissions, step_path
from services.orchestrator.engine.model import (
    PIVOT,
    READ,
    RECOVERED,
    REDRIVEN,
    Phase,
    ProvenPayment,
    StepError,
)
from services.orchestrator.engine.records import PayloadTooLargeError, RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US, Outcome, classify

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from services.orchestrator.definition.workflow import Call, Retry
    from services.orchestrator.engine.model import RunState, StepState
    from services.orchestrator.engine.record_writer import RecordWriter
    from services.orchestrator.engine.retry_policy import RetryPolicy

FIRST_ITERATION = "0"
CANCELLED_STEP = StepError("CANCELLED", "", "the run was cancelled before it was sent")


class Calls:
    """Begins calls, and decides after each attempt whether it completes, retries or fails."""

    __slots__ = ("_policy", "_writer")

    def __init__(self, writer: RecordWriter, policy: RetryPolicy) -> None:
        self._writer = writer
        self._policy = policy

    # Begin.

    def begin(
        self,
        call: Call,
        path: str,
        scope: dict[str, Any],
        metadata: dict[str, Any],
        condition: dict[str, Any],
    ) -> None:
        """Begins the call, unless the run lacks the privilege or its payment is cancelled.

        ``metadata`` holds the ``condition`` too. Raises UnresolvedPathError, MismatchError or
        PayloadTooLargeError if the input of the call does not fit.
        """
        writer, payment = self._writer, metadata.get("payment", "")
        if (refusal := permissions.refusal(writer.state, path, call)) is not None:
            writer.fail(path, refusal, **condition)
        elif outcome.is_cancelled_payment(writer.state, payment):
            message = f"{path}: {CANCELLED_STEP.message}"
            writer.fail(path, replace(CANCELLED_STEP, message=message), **condition)
        else:
            resolved = resolve(call.input_mapping, scope, writer.resolved_size())
            payload = {**metadata, "input": resolved}
            if isinstance(call.operation.runs, Workflow):
                self._begin_workflow(call.operation.runs, path, payload)
            else:
                self._begin_method(call, call.operation.runs, path, payload, payment)

    def _begin_workflow(self, workflow: Workflow, path: str, payload: dict[str, Any]) -> None:
        workflow.inputs.check(payload["input"])
        if len(self._writer.state.steps) + workflow.min_steps > MAX_STEPS_PER_RUN:
            message = f"the run would have more than {MAX_STEPS_PER_RUN} steps"
            self._writer.fail(path, StepError("INVALID_ARGUMENT", "", message), **payload)
            return
        self._writer.add(RecordKind.STEP_INTENT, path, payload, attempt=1)

    def _begin_method(
        self, call: Call, method: Method, path: str, payload: dict[str, Any], payment: str
    ) -> None:
        state = self._writer.state
        key = effect_key(state, path, method.effect, payment)
        request = build_request(method, payload["input"], key, state, payment)
        payload |= {
            "method": method.path,
            "service": method.service,
            "key": key,
            "request": b64encode(request).decode(),
        }
        if call.timeout_us is not None:
            payload["timeout_us"] = call.timeout_us
        self._writer.add(RecordKind.STEP_INTENT, path, payload, attempt=1)

    # An attempt that succeeded.

    def receive_reply(self, path: str, raw: bytes) -> None:
        """Completes the step with the reply to its call."""
        try:
            call = self._writer.call_at(path)
            message = method_of(call).reply.FromString(raw)
            self.complete(call, path, values.to_json(message), attestations_of(message))
        except (values.MismatchError, DecodeError) as error:
            self._fail_after_effect(path, f"the reply of {path}: {error}")

    def complete(
        self, call: Call, path: str, reply: dict[str, Any], attestations: list[list[str]]
    ) -> None:
        """Completes a call of an RPC or a workflow with the output that its step maps."""
        try:
            scope = self._writer.scope_at(path)
            scope["output"] = reply
            output = resolve(call.output_mapping, scope, self._writer.resolved_size())
            payload = {"reply": reply, "output": output, "attestations": attestations}
            self._writer.add(RecordKind.STEP_DONE, path, payload)
        except (UnresolvedPathError, PayloadTooLargeError) as error:
            self._fail_after_effect(path, f"output of {path}: {error}")

    def _fail_after_effect(self, path: str, message: str) -> None:
        """Fails a step whose call was made; a payment stays uncertain."""
        paid = self._writer.state.steps[path].effect == PIVOT
        self._writer.fail(path, StepError("INTERNAL", "", message), uncertain=paid)

    # An attempt that failed.

    def receive_error(self, step: StepState, error: StepError) -> None:
        """Waits for the circuit breaker, retries, cancels or fails the step."""
        found = classify(error, mutating=_mutates(step))
        if found is Outcome.CIRCUIT_OPEN:
            self._wait_for_circuit(step, error)
            return
        uncertain = step.uncertain or found is Outcome.UNCERTAIN
        if found is Outcome.DEFINITE and not self._retries_error(step, error):
            self._end_refused(step, error, uncertain=uncertain)
        elif self._may_retry(step, error, uncertain=uncertain):
            self._retry(step, error, uncertain=found is Outcome.UNCERTAIN)
        elif found is Outcome.DEFINITE:
            self._end_refused(step, error, uncertain=uncertain)
        elif uncertain:
            self.give_up(step, error)
        else:
            self._writer.fail(step.path, error)

    def _retries_error(self, step: StepState, error: StepError) -> bool:
        """Returns whether the definition names this very error as one to retry."""
        named = self._retry_override(step).errors
        return bool({error.code, error.reason} & named) and not step.cancelled

    def _end_refused(self, step: StepState, error: StepError, *, uncertain: bool) -> None:
        """Fails the step; cancels its call first if an earlier attempt may still take effect."""
        if uncertain and self._cancel_method(step) is not None and not step.cancelled:
            self._cancel(step, error)
        else:
            self._writer.fail(step.path, _root_cause(step, error))

    def give_up(self, step: StepState, error: StepError) -> None:
        """Ends a step whose effect is unknown: cancels its call, or else leaves it uncertain."""
        if self._cancel_method(step) is not None and not step.cancelled:
            self._cancel(step, error)
        else:
            self._writer.fail(step.path, error, uncertain=True)

    def _may_retry(self, step: StepState, error: StepError, *, uncertain: bool) -> bool:
        state = self._writer.state
        if outcome.is_owed(state, step) and state.pending_end is None:
            return True  # a payment was made: the run must do what follows it
        if state.cancellation and step.effect == PIVOT and not step.cancelled:
            return False
        override = self._retry_override(step)
        stopped = state.pending_end is not None and not uncertain
        if stopped and not outcome.belongs_to_end(step):
            return False
        attempts = step.attempt - step.prior_attempts
        if override.max_attempts is not None and attempts >= override.max_attempts:
            return False
        if override.errors and not uncertain and not {error.code, error.reason} & override.errors:
            return False
        next_us = self._writer.at_us + self._backoff_us(step, error)
        late = next_us >= state.deadline_us and not outcome.belongs_to_end(step)
        in_window = next_us - step.retry_started_us < self._retry_window_us(step)
        return (not late or step.cancelled) and in_window

    def _retry_window_us(self, step: StepState) -> float:
        """Returns how long a step retries, without the time that it waits for a circuit breaker."""
        call = self._writer.call_at(step.path)
        limits = [us for us in (call.timeout_us, call.retry.max_duration_us) if us is not None]
        return min(limits) if limits else self._policy.step_timeout_s * SECOND_US

    def _retry_override(self, step: StepState) -> Retry:
        return self._writer.call_at(step.path).retry

    def _backoff_us(self, step: StepState, error: StepError) -> int:
        return self._policy.retry_us(
            step.attempt - step.prior_attempts,
            error,
            self._writer.jitter,
            after_pivot=outcome.is_owed(self._writer.state, step),
            override=self._retry_override(step),
        )

    def _retry(self, step: StepState, error: StepError, *, uncertain: bool) -> None:
        payload = {
            "error": error.to_payload(),
            "uncertain": uncertain,
            "final": False,
            "retry_us": self._writer.at_us + self._backoff_us(step, error),
        }
        self._writer.add(RecordKind.STEP_FAILED, step.path, payload)

    def _wait_for_circuit(self, step: StepState, error: StepError) -> None:
        until_us = self._writer.at_us + self._policy.circuit_open_us(error, self._writer.jitter)
        payload = {"error": error.to_payload(), "until_us": until_us}
        self._writer.add(RecordKind.STEP_CIRCUIT_OPEN, step.path, payload)

    def resume(self, step: StepState) -> None:
        """Makes the attempt that waited for its backoff or for a circuit breaker."""
        if step.phase is not Phase.CIRCUIT_OPEN:
            cause = REDRIVEN if step.attempt == step.prior_attempts else "retried"
            self.attempt_again(step.path, cause)
            return
        state = self._writer.state
        late = self._writer.at_us >= state.deadline_us and not outcome.is_owed(state, step)
        if not late or step.cancelled or outcome.belongs_to_end(step):
            # Nothing was sent before: it is still the same attempt.
            self._writer.add(
                RecordKind.STEP_ATTEMPT,
                step.path,
                {"cause": "circuit_closed"},
                attempt=step.attempt,
            )
            return
        message = "the run's deadline passed while the circuit breaker was open"
        error = StepError("DEADLINE_EXCEEDED", "", message)
        if step.uncertain:
            self.give_up(step, error)
        else:
            self._writer.fail(step.path, error)

    def recover(self) -> None:
        """Repeats every call that another process left unanswered, under its key."""
        self._writer.add(RecordKind.RECOVERED, "", {})
        for step in self._writer.state.in_flight:
            if step.phase is Phase.CALL:
                self.attempt_again(step.path, RECOVERED)

    def attempt_again(self, path: str, cause: str) -> None:
        attempt = self._writer.state.steps[path].attempt + 1
        self._writer.add(RecordKind.STEP_ATTEMPT, path, {"cause": cause}, attempt=attempt)

    # Cancellation of a call that may have had its effect.

    def _cancel(self, step: StepState, error: StepError) -> None:
        cancel = self._cancel_method(step)
        assert cancel is not None  # noqa: S101
        payload = {
            "method": cancel.path,
            "request": b64encode(build_cancel(cancel, step.key)).decode(),
            "error": error.to_payload(),
        }
        self._writer.add(RecordKind.CANCEL_INTENT, step.path, payload)

    def confirm_cancel(self, path: str) -> None:
        """Sends the call once more: its answer says whether the effect came before the cancel."""
        self._writer.add(RecordKind.CANCEL_DONE, path, {})
        self.attempt_again(path, "cancelled")

    def receive_cancel_error(self, step: StepState, error: StepError) -> None:
        """Retries the cancel, or leaves the step uncertain."""
        found, policy, at_us = classify(error, mutating=True), self._policy, self._writer.at_us
        in_time = at_us - step.retry_started_us < policy.step_timeout_s * SECOND_US
        # An open circuit breaker does not use up the time: it closes when its target is back.
        if found is Outcome.CIRCUIT_OPEN or (found is not Outcome.DEFINITE and in_time):
            wait_us = policy.retry_us(
                step.cancel_attempt, error, self._writer.jitter, after_pivot=False
            )
            payload = {"error": error.to_payload(), "final": False, "retry_us": at_us + wait_us}
            self._writer.add(RecordKind.CANCEL_FAILED, step.path, payload)
            return
        final = {"error": error.to_payload(), "final": True}
        self._writer.add(RecordKind.CANCEL_FAILED, step.path, final)
        self._writer.fail(step.path, error, uncertain=True)

    def _cancel_method(self, step: StepState) -> Method | None:
        runs = self._writer.call_at(step.path).operation.runs
        return runs.cancel if isinstance(runs, Method) else None


def method_of(call: Call) -> Method:
    """Returns the RPC of a call that runs no workflow."""
    assert isinstance(call.operation.runs, Method)  # noqa: S101
    return call.operation.runs


def _mutates(step: StepState) -> bool:
    return step.effect != READ


def _root_cause(step: StepState, error: StepError) -> StepError:
    """Returns the refusal that led to the cancel, which says more than the error of the cancel."""
    cause = step.cancel_cause
    is_refusal = cause is not None and classify(cause, mutating=True) is Outcome.DEFINITE
    return cause if cause is not None and is_refusal else error


def effect_key(state: RunState, path: str, effect: Effect, payment: str) -> str:
    """Returns the request_id of every attempt of a step: RUN/STEP/ITERATION.

    A payment's key is its own id, or the run's. A redriven step whose key is retired gets a new
    one, RUN/STEP/ITERATION/REDRIVE.
    """
    if effect is Effect.PIVOT:
        return payment or state.run_id
    iteration = ".".join(step_path.item_indices(path)) or FIRST_ITERATION
    key = f"{state.run_id}/{step_path.template_path(path)}/{iteration}"
    return f"{key}/{state.retired_keys[path]}" if path in state.retired_keys else key


def build_request(
    method: Method, resolved: dict[str, Any], key: str, state: RunState, payment: str
) -> bytes:
    """Returns the serialized request. Raises MismatchError if the resolved input does not fit."""
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
    """Returns whether a request has a request_id, and whether it has a run context."""
    return "request_id" in request.fields_by_name, "context" in request.fields_by_name


def build_cancel(method: Method, key: str) -> bytes:
    """Returns the request of a cancel, whose only field is the id of what to refuse."""
    request = method.request()
    setattr(request, request.DESCRIPTOR.fields[0].name, key)
    return request.SerializeToString(deterministic=True)


def attestations_of(reply: Message) -> list[list[str]]:
    """Returns kind and JWS of each attestation in a reply."""
    if not _attests(reply.DESCRIPTOR):
        return []
    attestations: Iterable[Attestation] = getattr(reply, "attestations")  # noqa: B009
    return [[attestation.kind, attestation.jws] for attestation in attestations]


@lru_cache(maxsize=1024)
def _attests(reply: Descriptor) -> bool:
    declared = reply.fields_by_name.get("attestations")
    return declared is not None and declared.message_type is Attestation.DESCRIPTOR


def _context(state: RunState, payment: str) -> RunContext:
    """Returns intent, presentation and attestations of the step's payment, and of no other."""
    proven = state.payments[payment] if payment else ProvenPayment(state.intent, state.presentation)
    context = RunContext(presentation=proven.presentation)
    if proven.intent:
        context.intent.CopyFrom(PaymentIntent.FromString(proven.intent))
    for attested in state.attestations:
        if attested.payment == payment:
            context.attestations.add(kind=attested.kind, jws=attested.jws)
    return context
