"""What is left of a run's records once what is about people is taken out of them.

The contracts say which fields of requests and replies are no more than INTERNAL: these stay. So do
the engine's own words: statuses, times, codes. Whatever else a payload holds is taken to be about
somebody, also what nobody has thought of yet. Folded again, the records give the same run, with
marks in it. Taking out of what was taken out changes nothing.
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
WORD = "(erased)"  # where a text stood

HIGHEST = DataClass.INTERNAL

# The engine's own, in whatever record they stand.
KEPT = frozenset(
    {
        *(
            "workflow_id",
            "definition_hash",
            "sub_workflow_hashes",
            "started_by",
            "deadline_us",
            "cause",
        ),
        *(
            "allowed_privileges",
            "abandoned_phase",
            "requester",
            "paths",
            "step",
            "type",
            "approved",
        ),
        *("previous_status", "compensates", "retry", "restart", "resume", "retired_keys"),
        *("operation", "protocol", "effect", "payment", "method", "service", "key"),
        *("until_us", "timeout_us", "retry_us", "awaits_event", "cancels_payment"),
        *(
            "uncertain",
            "final",
            "failure_scope",
            "failed_step",
            "consumed",
            "position",
            "name",
            "status",
        ),
    }
)
ENDS = (RecordKind.FINISH, RecordKind.STOPPING)


def erase(records: Iterable[Record], cause: str) -> Iterator[Record]:
    """The same records without what is about people. ``cause`` is why the run ended."""
    methods: dict[str, MethodDescriptor | None] = {}  # that steps call, by path
    for record in records:
        if record.kind is RecordKind.STEP_INTENT and (called := record.payload.get("method")):
            methods[record.path] = _method(called)
        method = methods.get(record.path)
        payload = {
            name: value if name in KEPT else _left(name, value, record.kind, method, cause)
            for name, value in record.payload.items()
        }
        # Marks may be longer than what they stand for: no bound keeps them out of the journal.
        encoded = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
        yield record._replace(payload=payload, encoded=encoded)


def _left(
    name: str, value: Any, kind: RecordKind, method: MethodDescriptor | None, cause: str
) -> Any:
    match name, value:
        case "input", dict() if method is not None:
            return _by_class(value, method.input_type)
        case "reply", dict() if method is not None:
            return _by_class(value, method.output_type)
        case "reply", None:
            return None  # there was none: the step is the engine's own
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
            message = WORD if value["message"] else ""
            return {"code": value["code"], "reason": value["reason"], "message": message}
        case "attestations", list():
            return [[attested, WORD] for attested, _ in value]
        case "intent", str():
            return _intent(value)
        case "payments", list():
            return [{"intent": _intent(one["intent"]), "presentation": WORD} for one in value]
        case "request", str():
            return ""  # it was sent
        case "reason", str() if kind in ENDS:
            return cause
        case "reason", str() if kind is RecordKind.STEP_SKIPPED:
            return value  # what it names of operands may be shown
        case _, str():
            return WORD if value else ""
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
    if field is None or contracts.data_class(field) > HIGHEST:
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
    plan = plan_for(PaymentIntent.DESCRIPTOR, HIGHEST)
    if plan is not None:
        plan.clear(intent)
    return b64encode(intent.SerializeToString(deterministic=True)).decode()


def _method(path: str) -> MethodDescriptor | None:
    """None if no contract has it any more: then nobody knows what its messages hold."""
    try:
        return descriptor_pool.Default().FindMethodByName(path.lstrip("/").replace("/", "."))
    except KeyError:
        return None
