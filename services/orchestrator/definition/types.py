"""Types of the values in workflows, as the contracts declare them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from google.protobuf.descriptor import FieldDescriptor

from anya.mesh.v1 import attestation_pb2, options_pb2
from anya.mesh.v1.attestation_pb2 import RunContext
from mesh.rpc import contracts
from mesh.security.redaction import plan_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.descriptor import Descriptor

TIMESTAMP = "google.protobuf.Timestamp"
DURATION = "google.protobuf.Duration"
STRUCT = "google.protobuf.Struct"

# Only the engine reads and writes these messages and fields: no definition can name them.
_OWN_MESSAGES = {
    RunContext.DESCRIPTOR.full_name,
    attestation_pb2.Attestation.DESCRIPTOR.full_name,
}
_OWN_NAMES = {"request_id"}


MAX_DISTINCT = 16  # types of items in a literal list


class TypeKind(Enum):
    ANY = "any value"
    BOOL = "true or false"
    INT = "an integer"
    DOUBLE = "a number"
    STRING = "a string"
    ENUM = "one of a few words"
    BYTES = "hexadecimal digits"
    TIME = "an RFC 3339 time"
    LIST = "a list"
    OBJECT = "an object"
    STRUCT = "an object with any members"
    # Inferred from the conditions on an input that no contract declares.
    NUMBER = "any number"
    SIZED = "a text, a list or an object"
    COLLECTION = "a list or an object"


OPTIONAL = frozenset(["optional"])  # a field that a service may leave out, or a literal null

# Types that say so little that only the value shows whether it fits.
LOOSE = frozenset([TypeKind.ANY, TypeKind.NUMBER, TypeKind.SIZED, TypeKind.COLLECTION])

_KINDS = {
    FieldDescriptor.CPPTYPE_BOOL: TypeKind.BOOL,
    FieldDescriptor.CPPTYPE_INT32: TypeKind.INT,
    FieldDescriptor.CPPTYPE_INT64: TypeKind.INT,
    FieldDescriptor.CPPTYPE_UINT32: TypeKind.INT,
    FieldDescriptor.CPPTYPE_UINT64: TypeKind.INT,
    FieldDescriptor.CPPTYPE_FLOAT: TypeKind.DOUBLE,
    FieldDescriptor.CPPTYPE_DOUBLE: TypeKind.DOUBLE,
    FieldDescriptor.CPPTYPE_ENUM: TypeKind.ENUM,
}


@dataclass(frozen=True, slots=True)
class ValueType:
    kind: TypeKind
    nullable: bool = False
    # The field whose range or words a scalar must fit; None if no contract declares it.
    scalar: FieldDescriptor | None = None
    message: Descriptor | None = None  # an OBJECT of a contract
    members: Mapping[str, ValueType] = field(default_factory=dict)  # an OBJECT of no contract
    element: ValueType | None = None  # of a LIST
    # Of a literal LIST: the type of each item. Of ANY: the possible types, if they are known.
    items: tuple[ValueType, ...] | None = None
    open: bool = False  # an OBJECT that may have more members
    # False if the contract's data class keeps the value itself from logs and reasons; may_be_shown
    # also considers what is inside the value.
    showable: bool = True
    # Empty unless the value may be null: then what a condition can name to rule null out, such as
    # "steps.look" for a step that may be skipped.
    absent: frozenset[str] = frozenset()

    def __str__(self) -> str:
        if self.message is not None:
            return f"a {self.message.name}"
        if self.kind is TypeKind.ANY and self.items:
            names = list(dict.fromkeys(map(str, self.items)))
            return " or ".join(names) if len(names) > 1 else f"{names[0]} of several kinds"
        if self.kind is TypeKind.ENUM and self.scalar is not None:
            return f"one of {', '.join(enum_words(self.scalar))}"
        return self.kind.value

    @property
    def may_be_shown(self) -> bool:
        """True if logs and reasons may show a value of the type, with everything inside it."""
        if not self.showable or not all(type.may_be_shown for type in self.members.values()):
            return False
        if self.message is not None and plan_for(self.message, options_pb2.DATA_CLASS_INTERNAL):
            return False
        return self.element is None or self.element.may_be_shown

    def or_null(self, absent: frozenset[str] = frozenset()) -> ValueType:
        """Returns the type with null allowed. ``absent``: what a condition names to rule it out."""
        if self.nullable and absent <= self.absent:
            return self
        return replace(self, nullable=True, absent=self.absent | absent)

    def names(self) -> tuple[str, ...]:
        """Returns the declared members of an object."""
        return tuple(fields(self.message)) if self.message else tuple(self.members)

    def descend(self, part: str | int) -> ValueType | None:
        """Returns the type of a member or item, or None if no value of the type has it."""
        found: ValueType | None
        if self.kind is TypeKind.ANY and self.items:
            below = [one.descend(part) for one in self.items]
            return None if None in below else common(filter(None, below))
        match self.kind, part:
            case ((TypeKind.ANY | TypeKind.SIZED | TypeKind.COLLECTION), _):
                return ANY
            case TypeKind.STRUCT, str():
                found = replace(ANY, showable=self.showable)
            case TypeKind.LIST, int() if self.items is not None:
                found = self.items[part] if part < len(self.items) else None
            case TypeKind.LIST, int():
                found = self.element
            case TypeKind.OBJECT, str() if self.message is not None:
                declared = fields(self.message).get(part)
                found = None if declared is None else type_of(declared)
            case TypeKind.OBJECT, str():
                found = self.members.get(part, ANY if self.open else None)
            case _:
                return None
        if found is not None and not self.showable:
            found = replace(found, showable=False)
        return found.or_null(self.absent) if found is not None and self.nullable else found

    def accepts(self, source: ValueType) -> bool:
        """Returns whether a value of type ``source`` may fit; the run checks what depends on it."""
        if self.kind is TypeKind.ANY or source.kind is TypeKind.ANY:
            return self.kind is TypeKind.ANY or all(map(self.accepts, source.items or ()))
        if self.kind in LOOSE or source.kind in LOOSE:
            return bool(forms(self) & forms(source))
        match self.kind:
            case TypeKind.DOUBLE:
                return source.kind in (TypeKind.DOUBLE, TypeKind.INT)
            case TypeKind.STRING:
                return source.kind in (
                    TypeKind.STRING,
                    TypeKind.ENUM,
                    TypeKind.BYTES,
                    TypeKind.TIME,
                )
            case TypeKind.BYTES | TypeKind.TIME:
                return source.kind in (self.kind, TypeKind.STRING)
            case TypeKind.ENUM:
                return source.kind is TypeKind.STRING or _same_enum(self, source)
            case TypeKind.LIST:
                return source.kind is TypeKind.LIST and _accepts_items(self, source)
            case TypeKind.OBJECT:
                return source.kind is TypeKind.STRUCT or (
                    source.kind is TypeKind.OBJECT and _accepts_members(self, source)
                )
            case TypeKind.STRUCT:
                return source.kind in (TypeKind.STRUCT, TypeKind.OBJECT)
            case _:
                return source.kind is self.kind


ANY = ValueType(TypeKind.ANY, showable=False)
BOOL = ValueType(TypeKind.BOOL)
INT = ValueType(TypeKind.INT)
DOUBLE = ValueType(TypeKind.DOUBLE)
STRING = ValueType(TypeKind.STRING)
TIME = ValueType(TypeKind.TIME)
NUMBER = ValueType(TypeKind.NUMBER)
SIZED = ValueType(TypeKind.SIZED)
COLLECTION = ValueType(TypeKind.COLLECTION)


@lru_cache(maxsize=1024)
def fields(message: Descriptor) -> dict[str, FieldDescriptor]:
    """Returns the fields that a definition can name, by their names in definitions."""
    return {
        field.GetOptions().Extensions[options_pb2.workflow_name] or field.name: field
        for field in message.fields
        if field.name not in _OWN_NAMES
        and not (field.message_type and field.message_type.full_name in _OWN_MESSAGES)
    }


@lru_cache(maxsize=4096)
def type_of(field: FieldDescriptor) -> ValueType:
    """Returns the type of a field."""
    item = _item_type(field)
    if field.is_repeated:
        return ValueType(TypeKind.LIST, element=item, showable=item.showable)
    if not field.has_presence:
        return item
    return item.or_null(OPTIONAL if field.message_type is None else frozenset())


def object_type(message: Descriptor) -> ValueType:
    """Returns the type of a message."""
    return ValueType(TypeKind.OBJECT, message=message)


def enum_words(field: FieldDescriptor) -> dict[str, int]:
    """Returns the words of an enum and their numbers: ``success`` for ``SEND_OUTCOME_SUCCESS``."""
    if field.enum_type is None:
        return {}
    values = field.enum_type.values
    # Every enum has a zero named <PREFIX>_UNSPECIFIED: buf holds the contracts to it.
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in values}


def _item_type(field: FieldDescriptor) -> ValueType:
    showable = contracts.data_class(field) <= options_pb2.DATA_CLASS_INTERNAL
    message = field.message_type
    if message is None:
        kind = _KINDS.get(field.cpp_type)
        if kind is None:
            kind = TypeKind.BYTES if field.type == FieldDescriptor.TYPE_BYTES else TypeKind.STRING
        return ValueType(kind, scalar=field, showable=showable)
    if message.full_name == TIMESTAMP:
        return ValueType(TypeKind.TIME, showable=showable)
    if message.full_name == DURATION:
        return ValueType(TypeKind.STRING, showable=showable)
    if message.full_name == STRUCT:
        return ValueType(TypeKind.STRUCT, showable=showable)
    return ValueType(TypeKind.OBJECT, message=message, showable=showable)


def list_of(items: Iterable[ValueType]) -> ValueType:
    """Returns the type of a literal list."""
    written = tuple(map(_as_number, items))
    return ValueType(TypeKind.LIST, element=common(written), items=written)


def _as_number(type: ValueType) -> ValueType:
    """Returns NUMBER for INT and DOUBLE: items of one list may be either."""
    return NUMBER if type.kind in (TypeKind.INT, TypeKind.DOUBLE) else type


def common(types: Iterable[ValueType]) -> ValueType:
    """Returns the type that covers all of these: one type, or ANY with the possible types.

    Returns plain ANY if the possible types are too many.
    """
    types = _distinct(map(_as_number, types))
    if len(types) > MAX_DISTINCT:
        return ANY
    first, *others = types or [ANY]
    names = first.names()
    alike = all(type.kind is first.kind and type.names() == names for type in others)
    null = frozenset(key for type in types for key in type.absent)
    found = ANY if len(types) == 1 else replace(ANY, items=tuple(types))
    if alike and first.kind in (TypeKind.BOOL, TypeKind.NUMBER, TypeKind.STRING):
        found = ValueType(first.kind, showable=all(type.showable for type in types))
    elif alike and first.kind is TypeKind.OBJECT and first.message is None and not first.open:
        columns = {name: common([type.members[name] for type in types]) for name in names}
        found = ValueType(TypeKind.OBJECT, members=columns)
    elif alike and first.kind is TypeKind.LIST:
        found = ValueType(TypeKind.LIST, element=common([type.element or ANY for type in types]))
    return found.or_null(null) if any(type.nullable for type in types) else found


def _distinct(types: Iterable[ValueType]) -> list[ValueType]:
    found: list[ValueType] = []
    for type in types:
        if len(found) <= MAX_DISTINCT and type not in found:
            found.append(type)
    return found


def forms(type: ValueType) -> frozenset[str]:
    """Returns the forms that values of the type may have in JSON."""
    return _FORMS.get(type.kind, frozenset(["text"]))


_NUMBERS, _LISTS, _OBJECTS = frozenset(["number"]), frozenset(["list"]), frozenset(["object"])
_FORMS = {
    TypeKind.BOOL: frozenset(["truth"]),
    **dict.fromkeys([TypeKind.INT, TypeKind.DOUBLE, TypeKind.NUMBER], _NUMBERS),
    TypeKind.LIST: _LISTS,
    **dict.fromkeys([TypeKind.OBJECT, TypeKind.STRUCT], _OBJECTS),
    TypeKind.COLLECTION: _LISTS | _OBJECTS,
    TypeKind.SIZED: _LISTS | _OBJECTS | frozenset(["text"]),
}


def _same_enum(target: ValueType, source: ValueType) -> bool:
    return (
        target.scalar is not None
        and source.scalar is not None
        and target.scalar.enum_type is source.scalar.enum_type
    )


def _accepts_items(target: ValueType, source: ValueType) -> bool:
    if target.element is None or source.element is None:
        return True
    return target.element.accepts(source.element)


def _accepts_members(target: ValueType, source: ValueType) -> bool:
    if target.message is not None and source.message is not None:
        return target.message is source.message
    declared = target.names()
    return all(
        (name in declared or target.open)
        and (target.descend(name) or ANY).accepts(source.descend(name) or ANY)
        for name in source.names()
    )
