"""Plans which fields of a message may not cross a boundary, once per message type and class."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

from mesh.rpc import contracts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import Message

# Messages of these packages have no classes of their own: the field that holds them has one.
OPAQUE = ("google.protobuf", "google.rpc")


class _FieldKind(Enum):
    SINGLE = "single"
    REPEATED = "repeated"
    MAP = "map"


@dataclass(slots=True)
class Plan:
    """The fields of one message type that are above one data class."""

    forbidden: set[str] = field(default_factory=set)  # fields above the class
    inner: list[tuple[str, _FieldKind, Plan]] = field(
        default_factory=list
    )  # fields that hold messages

    def clear(self, message: Message) -> None:
        """Clears the forbidden fields of the message, in place."""
        for name in self.forbidden:
            message.ClearField(name)
        for name, kind, plan in self.inner:
            for held in _held(message, name, kind):
                plan.clear(held)

    def find(self, message: Message) -> str | None:
        """Returns the path of a forbidden field that is set (``"context.name"``), or None."""
        for found, _ in message.ListFields():
            if found.name in self.forbidden:
                return str(found.name)
        for name, kind, plan in self.inner:
            for held in _held(message, name, kind):
                if (path := plan.find(held)) is not None:
                    return f"{name}.{path}"
        return None

    def acts(self, seen: set[int]) -> bool:
        """Tells if a field is forbidden at any depth. ``seen`` ends recursive types."""
        if id(self) in seen:
            return False
        seen.add(id(self))
        return bool(self.forbidden) or any(plan.acts(seen) for _, _, plan in self.inner)


@cache
def plan_for(message: Descriptor, highest: int) -> Plan | None:
    """Returns the plan for these messages, or None if no field of theirs is above ``highest``."""
    plans: dict[Descriptor, Plan] = {}
    _fill(message, highest, plans)
    for plan in plans.values():
        plan.inner = [entry for entry in plan.inner if entry[2].acts(set())]
    return plans[message] if plans[message].acts(set()) else None


def _fill(message: Descriptor, highest: int, plans: dict[Descriptor, Plan]) -> Plan:
    if message in plans:
        return plans[message]
    plan = plans[message] = Plan()
    for inner in message.fields:
        kind, held = _content(inner)
        if contracts.data_class(inner) > highest:
            plan.forbidden.add(inner.name)
        elif held is not None and held.file.package not in OPAQUE:
            plan.inner.append((inner.name, kind, _fill(held, highest, plans)))
    return plan


def _content(inner: FieldDescriptor) -> tuple[_FieldKind, Descriptor | None]:
    """Returns the kind of a field, and the type of its values if they are messages."""
    held = inner.message_type
    if held is not None and held.GetOptions().map_entry:
        return _FieldKind.MAP, held.fields_by_name["value"].message_type
    return _FieldKind.REPEATED if inner.is_repeated else _FieldKind.SINGLE, held


def _held(message: Message, name: str, kind: _FieldKind) -> Iterable[Any]:
    value = getattr(message, name)
    match kind:
        case _FieldKind.MAP:
            return list(value.values())
        case _FieldKind.REPEATED:
            return list(value)
        case _FieldKind.SINGLE:
            return [value] if message.HasField(name) else []
