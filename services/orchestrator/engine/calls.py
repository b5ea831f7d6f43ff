"""What becomes of an attempt: the end of its step, another attempt, or a cancel."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from anya.mesh.v1.attestation_pb2 import Attestation, PaymentIntent, RunContext
from services.orchestrator.definition import values
from services.orchestrator.definition.templates import UnresolvedPathError, resolve
from services.orchestrator.definition.workflow import Effect, Method
from services.orchestrator.engine import outcome, step_path
from services.orchestrator.engine.model import RECOVERED, REDRIVEN, Phase, ProvenPayment, StepError
from services.orchestrator.engine.record_writer import RecordWriter
from services.orchestrator.engine.records import PayloadTooLargeError, RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US, Outcome, judge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from services.orchestrator.definition.workflow import Retry
    from services.orchestrator.engine.model import RunState, StepState


class Calls(RecordWriter):
    __slots__ = ()

    # An attempt that ended well.

    def finish_own(self, path: str, output: dict[str, Any]) -> None:
        """A step that calls nobody is done."""
        self.add(RecordKind.STEP_DONE, path, {"reply": None, "output": output, "attestations": []})

    def finish_step(self, path: str, reply: dict[str, Any], attestations: list[list[str]]) -> None:
        try:
            seen = self.seen(path)
            seen["output"] = reply
            output = resolve(self.call_at(path).output_mapping, seen)
            payload = {"reply": reply, "output": output, "attestations": attestations}
            self.add(RecordKind.STEP_DONE, path, payload)
        except (UnresolvedPathError, PayloadTooLargeError) as error:
            self.fail_after_effect(path, f"output of {path}: {error}")

    def fail_after_effect(self, path: str, message: str) -> None:
        """The call was made, but the run cannot go on from what it answered."""
        made = self.state.steps[path].effect == "PIVOT"
        self.end_call(path, StepError("INTERNAL", "", message), uncertain=made)

    def method_at(self, path: str) -> Method:
        runs = self.call_at(path).operation.runs
        assert isinstance(runs, Method)  # noqa: S101  (a workflow is not called)
        return runs

    # One that did not.

    def judge_failure(self, step: StepState, error: StepError) -> None:
        outcome = judge(error, mutating=_mutates(step))
        if outcome is Outcome.CIRCUIT_OPEN:
            self._park(step, error)
            return
        uncertain = step.uncertain or outcome is Outcome.UNCERTAIN
        if outcome is Outcome.DEFINITE and not self._asked_for(step, error):
            self._judge_refusal(step, error, uncertain=uncertain)
        elif self._may_try(step, error, uncertain=uncertain):
            self._retry(step, error, uncertain=outcome is Outcome.UNCERTAIN)
        elif outcome is Outcome.DEFINITE:
            self._judge_refusal(step, error, uncertain=uncertain)
        elif uncertain:
            self.give_up_on(step, error)
        else:
            self.end_call(step.path, error)

    def _asked_for(self, step: StepState, error: StepError) -> bool:
        """Does the definition have this very error tried again?"""
        asked = self._retry_override(step).errors
        return bool({error.code, error.reason} & asked) and not step.cancelled

    def _judge_refusal(self, step: StepState, error: StepError, *, uncertain: bool) -> None:
        """A refusal is final, unless an earlier attempt may still be on its way."""
        if uncertain and self._cancel_of(step) is not None and not step.cancelled:
            self._cancel(step, error)
        else:
            self.end_call(step.path, self._root_cause(step, error))

    @staticmethod
    def _root_cause(step: StepState, error: StepError) -> StepError:
        """What made us cancel says more than that it was cancelled, if it was a refusal."""
        cause = step.cancel_cause
        is_refusal = cause is not None and judge(cause, mutating=True) is Outcome.DEFINITE
        return cause if cause is not None and is_refusal else error

    def give_up_on(self, step: StepState, error: StepError) -> None:
        """Out of time, and the effect may be there: refuse it for ever, or call somebody."""
        if self._cancel_of(step) is not None and not step.cancelled:
            self._cancel(step, error)
        else:
            self.end_call(step.path, error, uncertain=True)

    def _may_try(self, step: StepState, error: StepError, *, uncertain: bool) -> bool:
        if outcome.is_owed(self.state, step) and self.state.pending_end is None:
            return True  # there is no way back: what follows a payment is owed
        if self.state.cancellation and step.effect == Effect.PIVOT.name and not step.cancelled:
            return False
        said = self._retry_override(step)
        stopped = self.state.pending_end is not None and not uncertain
        if stopped and not outcome.winds_up(step):
            return False
        if (
            said.max_attempts is not None
            and step.attempt - step.prior_attempts >= said.max_attempts
        ):
            return False
        if said.errors and not uncertain and not {error.code, error.reason} & said.errors:
            return False
        next_us = self.at_us + self._wait_us(step, error)
        late = next_us >= self.state.deadline_us and not outcome.winds_up(step)
        return (
            not late or step.cancelled
        ) and next_us - step.retry_started_us < self._retry_window_us(step)

    def _retry_window_us(self, step: StepState) -> float:
        """Microseconds that a step tries, without what it spends parked or dead."""
        said = (self.call_at(step.path).timeout_us, self._retry_override(step).max_duration_us)
        given = [us for us in said if us is not None]
        return min(given) if given else self.policy.step_timeout_s * SECOND_US

    def _retry_override(self, step: StepState) -> Retry:
        return self.call_at(step.path).retry

    def _wait_us(self, step: StepState, error: StepError) -> int:
        """How long it is to the next attempt."""
        return self.policy.retry_us(
            step.attempt - step.prior_attempts,
            error,
            self.jitter,
            after_pivot=outcome.is_owed(self.state, step),
            said=self._retry_override(step),
        )

    def _retry(self, step: StepState, error: StepError, *, uncertain: bool) -> None:
        payload = {
            "error": error.to_payload(),
            "uncertain": uncertain,
            "final": False,
            "retry_us": self.at_us + self._wait_us(step, error),
        }
        self.add(RecordKind.STEP_FAILED, step.path, payload)

    def _park(self, step: StepState, error: StepError) -> None:
        until = self.at_us + self.policy.circuit_open_us(error, self.jitter)
        payload = {"error": error.to_payload(), "until_us": until}
        self.add(RecordKind.STEP_CIRCUIT_OPEN, step.path, payload)

    def resume(self, step: StepState) -> None:
        """The time that the next attempt waited for has come."""
        if step.phase is not Phase.CIRCUIT_OPEN:
            self.attempt_again(
                step.path, REDRIVEN if step.attempt == step.prior_attempts else "retried"
            )
            return
        late = self.at_us >= self.state.deadline_us and not outcome.is_owed(self.state, step)
        if not late or step.cancelled or outcome.winds_up(step):
            # Nothing was sent before: it is still the same attempt.
            self.add(
                RecordKind.STEP_ATTEMPT,
                step.path,
                {"cause": "circuit_closed"},
                attempt=step.attempt,
            )
            return
        message = "the run's deadline passed while the step was parked"
        error = StepError("DEADLINE_EXCEEDED", "", message)
        if step.uncertain:
            self.give_up_on(step, error)
        else:
            self.end_call(step.path, error)

    def recover(self) -> None:
        self.add(RecordKind.RECOVERED, "", {})
        for step in self.state.in_flight:
            if step.phase is Phase.CALL:
                self.attempt_again(step.path, RECOVERED)

    def attempt_again(self, path: str, cause: str) -> None:
        attempt = self.state.steps[path].attempt + 1
        self.add(RecordKind.STEP_ATTEMPT, path, {"cause": cause}, attempt=attempt)

    # Cancelling what may have happened.

    def _cancel(self, step: StepState, error: StepError) -> None:
        cancel = self._cancel_of(step)
        assert cancel is not None  # noqa: S101
        payload = {
            "method": cancel.path,
            "request": b64encode(build_cancel(cancel, step.key)).decode(),
            "error": error.to_payload(),
        }
        self.add(RecordKind.CANCEL_INTENT, step.path, payload)

    def judge_failed_cancel(self, step: StepState, error: StepError) -> None:
        outcome = judge(error, mutating=True)
        in_time = self.at_us - step.retry_started_us < self.policy.step_timeout_s * SECOND_US
        # An open breaker costs nothing: it ends when its target is back.
        if outcome is Outcome.CIRCUIT_OPEN or (outcome is not Outcome.DEFINITE and in_time):
            wait = self.policy.retry_us(step.cancel_attempt, error, self.jitter, after_pivot=False)
            payload = {"error": error.to_payload(), "final": False, "retry_us": self.at_us + wait}
            self.add(RecordKind.CANCEL_FAILED, step.path, payload)
            return
        self.add(RecordKind.CANCEL_FAILED, step.path, {"error": error.to_payload(), "final": True})
        self.end_call(step.path, error, uncertain=True)

    def _cancel_of(self, step: StepState) -> Method | None:
        runs = self.call_at(step.path).operation.runs
        return runs.cancel if isinstance(runs, Method) else None


def _mutates(step: StepState) -> bool:
    return step.effect != Effect.READ.name


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
