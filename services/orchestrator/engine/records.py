"""What a run journals. Folding its records gives back its state, whoever folds them.

Payloads are JSON; ``?`` marks what may be missing:

    START          workflow_id, definition_hash, composites {name: hash}, input, intent (base64),
                   presentation, starter, ceiling [privilege, ...] or null, deadline_us,
                   payments? [{intent, presentation}, ...]
    STEP_INTENT    operation, protocol, effect, payment? its id, input, condition?; for an RPC also
                   method, service, key and request (base64): the bytes that every attempt sends;
                   for a wait until_us; refuses? a payment that a cancelled run did not make
    STEP_ATTEMPT   cause: what made another attempt necessary
    STEP_FAILED    error, uncertain, final; retry_us? unless it is final; output?, caught?, at?;
                   with the keys of STEP_INTENT if it is the step's first record
    STEP_HANDLED   nothing
    STEP_PARKED    error, until_us
    STEP_DONE      reply, output, attestations [[kind, jws], ...]; likewise; consumed?: sequences
                   of signals
    STEP_SKIPPED   operation, protocol, effect, condition?, output, reason; left? phase that the
                   end of the run found it in
    CANCEL_INTENT  method, request (base64), error: what led to it
    CANCEL_FAILED  error, final; retry_us? unless it is final
    CANCEL_DONE    nothing
    RECOVERED      nothing
    SIGNAL         name, payload, correlation, position: in what was sent to the run
    EVENT          type, subject, data, position: in the store's events; paths: of the steps that
                   take it
    APPROVAL       step: its path; approver, approves, digest, jws, position: as of a SIGNAL
    CANCEL_RUN     reason, by, position
    STOPPING       status, reason: how the run ends once nothing is under way
    FINISH         status, reason
    ERASED         by, cause: why the run ended, without what was about people; the records before
                   it were, or are being, replaced by what erasing.py leaves of them
    REDRIVEN       reason, by, ended, deadline_us; stops: whether it still stops for the reason that
                   it had; paths of steps: again (under the same key), anew (as if they had never
                   begun), inside (goes on with what is in them), spent (those whose next key is
                   another one)
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any, NamedTuple

from services.orchestrator.definition.values import depth

MAX_PAYLOAD = 1 << 20  # bytes
MAX_DEPTH = 32  # levels: each takes up to three of the 100 that readers of protobuf go down


EMIT = "emit"  # the operation of a step that emits an event, which its STEP_DONE has as input


class RecordKind(StrEnum):
    START = "START"
    STEP_INTENT = "STEP_INTENT"
    STEP_ATTEMPT = "STEP_ATTEMPT"
    STEP_FAILED = "STEP_FAILED"
    STEP_HANDLED = "STEP_HANDLED"
    STEP_PARKED = "STEP_PARKED"
    STEP_DONE = "STEP_DONE"
    STEP_SKIPPED = "STEP_SKIPPED"
    CANCEL_INTENT = "CANCEL_INTENT"
    CANCEL_FAILED = "CANCEL_FAILED"
    CANCEL_DONE = "CANCEL_DONE"
    RECOVERED = "RECOVERED"
    SIGNAL = "SIGNAL"
    EVENT = "EVENT"
    APPROVAL = "APPROVAL"
    CANCEL_RUN = "CANCEL_RUN"
    STOPPING = "STOPPING"
    FINISH = "FINISH"
    ERASED = "ERASED"
    REDRIVEN = "REDRIVEN"


class PayloadTooLargeError(ValueError):
    """More than one record may hold."""


class Record(NamedTuple):
    sequence: int  # from 1, without gaps
    kind: RecordKind
    path: str  # of the step; empty for what concerns the run
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
        """A record to be stored. PayloadTooLarge beyond MAX_PAYLOAD and MAX_DEPTH."""
        return cls(sequence, kind, path, attempt, at_us, payload, _encode(payload))

    def read_again(self) -> Record:
        """The same, sharing nothing with what was folded of this one."""
        return self._replace(payload=json.loads(self.encoded))


def decode(sequence: int, kind: str, path: str, attempt: int, at_us: int, payload: bytes) -> Record:
    return Record(sequence, RecordKind(kind), path, attempt, at_us, json.loads(payload), payload)


_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))


def _encode(payload: dict[str, Any]) -> bytes:
    encoded = _JSON.encode(payload).encode()
    if len(encoded) > MAX_PAYLOAD:
        raise PayloadTooLargeError(f"{len(encoded)} bytes; a record holds {MAX_PAYLOAD}")
    opened = encoded.count(b"{") + encoded.count(b"[")  # no fewer than levels, and quickly counted
    if opened > MAX_DEPTH and (levels := depth(payload)) > MAX_DEPTH:
        raise PayloadTooLargeError(f"nested {levels} levels deep; a record holds {MAX_DEPTH}")
    return encoded
