"""Which fields of a message may not travel, worked out once per message type and class."""

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

# Values of these types have no fields of a class of their own: they are of their holder's.
OPAQUE = ("google.protobuf", "google.rpc")


class _FieldKind(Enum):
    SINGLE = "single"
    REPEATED = "repeated"
    MAP = "map"


@dataclass(slots=True)
class Plan:
    """What to do with messages of one type so that nothing above one class is left in them."""

    forbidden: set[str] = field(default_factory=set)  # fields above the class
    inner: list[tuple[str, _FieldKind, Plan]] = field(default_factory=list)  # fields to look into

    def clear(self, message: Message) -> None:
        """Leave out what may not travel; the message is changed in place."""
        for name in self.forbidden:
            message.ClearField(name)
        for name, shape, plan in self.inner:
            for held in _held(message, name, shape):
                plan.clear(held)

    def find(self, message: Message) -> str | None:
        """The path of a field that is set and may not travel: ``"context.presentation"``."""
        for found, _ in message.ListFields():
            if found.name in self.forbidden:
                return str(found.name)
        for name, shape, plan in self.inner:
            for held in _held(message, name, shape):
                if (path := plan.find(held)) is not None:
                    return f"{name}.{path}"
        return None

    def acts(self, seen: set[int]) -> bool:
        """Whether it forbids a field, here or further in; types may hold themselves."""
        if id(self) in seen:
            return False
        seen.add(id(self))
        return bool(self.forbidden) or any(plan.acts(seen) for _, _, plan in self.inner)


@cache
def plan_for(message: Descriptor, highest: int) -> Plan | None:
    """How to keep what is above ``highest`` out of such messages; None if nothing of it ever is."""
    plans: dict[Descriptor, Plan] = {}
    _draw(message, highest, plans)
    for plan in plans.values():
        plan.inner = [step for step in plan.inner if step[2].acts(set())]
    return plans[message] if plans[message].acts(set()) else None


def _draw(message: Descriptor, highest: int, plans: dict[Descriptor, Plan]) -> Plan:
    if message in plans:
        return plans[message]
    plan = plans[message] = Plan()
    for inner in message.fields:
        shape, held = _content(inner)
        if contracts.data_class(inner) > highest:
            plan.forbidden.add(inner.name)
        elif held is not None and held.file.package not in OPAQUE:
            plan.inner.append((inner.name, shape, _draw(held, highest, plans)))
    return plan


def _content(inner: FieldDescriptor) -> tuple[_FieldKind, Descriptor | None]:
    """How a field holds its values, and their type if they are messages."""
    held = inner.message_type
    if held is not None and held.GetOptions().map_entry:
        return _FieldKind.MAP, held.fields_by_name["value"].message_type
    return _FieldKind.REPEATED if inner.is_repeated else _FieldKind.SINGLE, held


def _held(message: Message, name: str, shape: _FieldKind) -> Iterable[Any]:
    value = getattr(message, name)
    match shape:
        case _FieldKind.MAP:
            return list(value.values())
        case _FieldKind.REPEATED:
            return list(value)
        case _FieldKind.SINGLE:
            return [value] if message.HasField(name) else []
