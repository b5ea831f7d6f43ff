"""Erasure of personal data from the records of a run.

Kept are the fields of requests and replies that the contracts classify as INTERNAL or lower, and
the engine's own values: statuses, times, codes. Every other value is taken for personal data and
replaced by a mark, so that a new kind of value is erased by default. The erased records fold into
the same run with marks in it. Erasing erased records changes nothing.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool

from anya.mesh.v1.attestation_pb2 import PaymentIntent
from mesh.rpc import contracts
from mesh.security.redaction import OPAQUE, plan_for
from mesh.security.trust import DataClass
from services.orchestrator.definition.types import fields
from services.orchestrator.engine.records import Record, RecordKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

MARK: Mapping[str, Any] = {"erased": True}
TEXT_MARK = "(erased)"  # in place of a text

MAX_KEPT_CLASS = DataClass.INTERNAL

# Keys of the engine's own values, in records of every kind.
KEPT = frozenset(
    {
        *("workflow_id", "definition_hash", "sub_workflow_hashes", "started_by", "deadline_us"),
        *("allowed_privileges", "requester", "public_reason", "cause", "status", "position"),
        *("operation", "protocol", "effect", "payment", "method", "service", "key"),
        *("until_us", "timeout_us", "retry_us", "awaits_event", "cancels_payment"),
        *("uncertain", "final", "failure_scope", "failed_step", "abandoned_phase"),
        *("consumed", "name", "paths", "step", "type", "approved"),
        *("previous_status", "compensates", "retry", "restart", "resume", "retired_keys"),
    }
)
ENDS = (RecordKind.FINISH, RecordKind.STOPPING)


def erase(records: Iterable[Record], public_reason: str) -> Iterator[Record]:
    """Yields the records without personal data. ``public_reason`` replaces the run's reason."""
    methods: dict[str, MethodDescriptor | None] = {}  # that steps call, by path
    for record in records:
        if record.kind is RecordKind.STEP_INTENT and (called := record.payload.get("method")):
            methods[record.path] = _method(called)
        method = methods.get(record.path)
        payload = {
            name: value
            if name in KEPT
            else _erased(name, value, record.kind, method, public_reason)
            for name, value in record.payload.items()
        }
        # Marks may be longer than the values they replace, so MAX_PAYLOAD_BYTES does not apply.
        encoded = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
        yield record._replace(payload=payload, encoded=encoded)


def _erased(
    name: str, value: Any, kind: RecordKind, method: MethodDescriptor | None, public_reason: str
) -> Any:
    match name, value:
        case "input", dict() if method is not None:
            return _by_class(value, method.input_type)
        case "reply", dict() if method is not None:
            return _by_class(value, method.output_type)
        case "reply", None:
            return None  # a step of the engine's own has no reply
        case "output", dict():
            return {key: None if item is None else dict(MARK) for key, item in value.items()}
        case "condition", dict():
            operands = {path: dict(MARK) for path in value["operands"]}
            return {
                "expression": value["expression"],
                "verdict": value["verdict"],
                "operands": operands,
            }
        case "error", dict():
            message = TEXT_MARK if value["message"] else ""
            return {"code": value["code"], "reason": value["reason"], "message": message}
        case "attestations", list():
            return [[attested, TEXT_MARK] for attested, _ in value]
        case "intent", str():
            return _intent(value)
        case "payments", list():
            return [{"intent": _intent(one["intent"]), "presentation": TEXT_MARK} for one in value]
        case "request", str():
            return ""  # no attempt sends it again
        case "reason", str() if kind in ENDS:
            return public_reason
        case "reason", str() if kind is RecordKind.STEP_SKIPPED:
            return value  # it names only operands that may be shown
        case _, str():
            return TEXT_MARK if value else ""
        case _:
            return dict(MARK)


def _by_class(value: dict[str, Any], message: Descriptor) -> dict[str, Any]:
    if value == MARK:
        return value
    known = fields(message)
    return {name: _field(known.get(name), item) for name, item in value.items()}


def _field(field: FieldDescriptor | None, value: Any) -> Any:
    if value is None or value == MARK:
        return value
    if field is None or contracts.data_class(field) > MAX_KEPT_CLASS:
        return dict(MARK)
    held = field.message_type
    if held is None or held.file.package in OPAQUE:
        return value
    match value:
        case dict() if not held.GetOptions().map_entry:
            return _by_class(value, held)
        case list():
            items = (_by_class(item, held) if isinstance(item, dict) else None for item in value)
            return [dict(MARK) if item is None else item for item in items]
        case _:
            return dict(MARK)


def _intent(encoded: str) -> str:
    intent = PaymentIntent.FromString(b64decode(encoded))
    plan = plan_for(PaymentIntent.DESCRIPTOR, MAX_KEPT_CLASS)
    if plan is not None:
        plan.clear(intent)
    return b64encode(intent.SerializeToString(deterministic=True)).decode()


def _method(path: str) -> MethodDescriptor | None:
    """Returns the method, or None if no contract has it any more and its fields are unknown."""
    try:
        return descriptor_pool.Default().FindMethodByName(path.lstrip("/").replace("/", "."))
    except KeyError:
        return None
