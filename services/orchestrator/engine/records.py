"""The records of a run's journal. Folding them in order gives back the state of the run.

Payloads are JSON; ``?`` marks what may be missing:

    START          workflow_id, definition_hash, sub_workflow_hashes {name: hash}, input,
                   intent (base64), presentation, started_by, allowed_privileges [privilege, ...]
                   or null, deadline_us, payments? [{intent, presentation}, ...]
    STEP_INTENT    operation, protocol, effect, payment? its id, input, condition?, units? that its
                   conditions may have cost; for an RPC also
                   method, service, key and request (base64), the bytes that every attempt sends,
                   timeout_us?; for a wait until_us, awaits_event?; cancels_payment? true for a
                   call that cancels a payment which a cancelled run did not make
    STEP_ATTEMPT   cause: why another attempt is necessary
    STEP_FAILED    error, uncertain, final; retry_us? unless it is final; output?, failure_scope?,
                   failed_step?; with the keys of STEP_INTENT if it is the step's first record
    STEP_HANDLED   nothing
    STEP_CIRCUIT_OPEN  error, until_us
    STEP_DONE      reply, output, attestations [[kind, jws], ...]; with the keys of STEP_INTENT if
                   it is the step's first record; consumed?: sequences of signals
    STEP_SKIPPED   operation, protocol, effect, condition?, output, reason; abandoned_phase? the
                   phase of the step when the run ended
    CANCEL_INTENT  method, request (base64), error: what led to it
    CANCEL_FAILED  error, final; retry_us? unless it is final
    CANCEL_DONE    nothing
    RECOVERED      nothing
    SETTLED        nothing: the turn after a recovery ended, which followed another recovery
    SIGNAL         name, payload, correlation, position: in the run's inbox
    EVENT          type, subject, data, position: in the store's events; paths: of the steps that
                   receive it
    APPROVAL       step: its path; approver, approved, digest, jws, position: in the run's inbox
    CANCEL_RUN     reason, requester, position: in the run's inbox
    STOPPING       status, reason: how the run ends once no step is in flight
    FINISH         status, reason
    ERASED         requester, public_reason: why the run ended, without personal data; the records
                   before it are replaced by what erase.py leaves of them
    REDRIVEN       reason, requester, previous_status, deadline_us; compensates: whether the run
                   still takes its steps back; paths of steps: retry (under the same key), restart
                   (as if they had never begun), resume (with the steps inside them), retired_keys
                   (steps whose next key is another one)
"""

from __future__ import annotations

import json
from enum import StrEnum
from json.encoder import (  # type: ignore[attr-defined]  # the C one has no type
    c_make_encoder,
    encode_basestring,
)
from typing import TYPE_CHECKING, Any, NamedTuple

from services.orchestrator.definition.values import depth

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PAYLOAD_BYTES = 1 << 20
MAX_DEPTH = 32  # levels; each takes up to three of the 100 levels that protobuf readers allow

EMIT = "emit"  # operation of a step that emits an event: the input of its STEP_DONE


class RecordKind(StrEnum):
    START = "START"
    STEP_INTENT = "STEP_INTENT"
    STEP_ATTEMPT = "STEP_ATTEMPT"
    STEP_FAILED = "STEP_FAILED"
    STEP_HANDLED = "STEP_HANDLED"
    STEP_CIRCUIT_OPEN = "STEP_CIRCUIT_OPEN"
    STEP_DONE = "STEP_DONE"
    STEP_SKIPPED = "STEP_SKIPPED"
    CANCEL_INTENT = "CANCEL_INTENT"
    CANCEL_FAILED = "CANCEL_FAILED"
    CANCEL_DONE = "CANCEL_DONE"
    RECOVERED = "RECOVERED"
    SETTLED = "SETTLED"
    SIGNAL = "SIGNAL"
    EVENT = "EVENT"
    APPROVAL = "APPROVAL"
    CANCEL_RUN = "CANCEL_RUN"
    STOPPING = "STOPPING"
    FINISH = "FINISH"
    ERASED = "ERASED"
    REDRIVEN = "REDRIVEN"


class PayloadTooLargeError(ValueError):
    """The payload is larger or deeper than a record may be."""


class Record(NamedTuple):
    sequence: int  # from 1, without gaps
    kind: RecordKind
    path: str  # of the step; empty for the run itself
    attempt: int  # of the step, from 1; 0 before the first
    at_us: int  # Unix microseconds
    payload: dict[str, Any]
    encoded: bytes  # the payload as it is stored

    @classmethod
    def write(
        cls,
        sequence: int,
        kind: RecordKind,
        path: str,
        attempt: int,
        at_us: int,
        payload: dict[str, Any],
    ) -> Record:
        """Returns a record to store.

        Raises PayloadTooLargeError beyond MAX_PAYLOAD_BYTES or MAX_DEPTH.
        """
        return cls(sequence, kind, path, attempt, at_us, payload, _encode(payload))

    def copy(self) -> Record:
        """Returns the record with a payload that shares nothing with this one's."""
        return self._replace(payload=json.loads(self.encoded))


def decode(sequence: int, kind: str, path: str, attempt: int, at_us: int, payload: bytes) -> Record:
    """Returns a record from its stored columns."""
    return Record(sequence, RecordKind(kind), path, attempt, at_us, json.loads(payload), payload)


def _json_encoder() -> Callable[[dict[str, Any]], str]:
    """Returns a function that encodes an object without spaces, its texts unescaped."""
    encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
    if c_make_encoder is None:
        return encoder.encode
    # JSONEncoder.encode makes one for each object, which is a third of what it costs.
    chunks = c_make_encoder(
        None, encoder.default, encode_basestring, None, ":", ",", False, False, True
    )
    return lambda payload: "".join(chunks(payload, 0))


_to_json = _json_encoder()


def _encode(payload: dict[str, Any]) -> bytes:
    encoded = _to_json(payload).encode()
    if len(encoded) > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(f"{len(encoded)} bytes; a record holds {MAX_PAYLOAD_BYTES}")
    opened = encoded.count(b"{") + encoded.count(
        b"["
    )  # at least as many as levels, and quickly counted
    if opened > MAX_DEPTH and (levels := depth(payload)) > MAX_DEPTH:
        raise PayloadTooLargeError(f"nested {levels} levels deep; a record holds {MAX_DEPTH}")
    return encoded
