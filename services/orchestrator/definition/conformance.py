"""Checks whether JSON values are of a type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from services.orchestrator.definition import values
from services.orchestrator.definition.types import ANY, TypeKind

if TYPE_CHECKING:
    from services.orchestrator.definition.source import Pointer
    from services.orchestrator.definition.types import ValueType

# The Python types of a literal, for types that no contract declares.
_LITERALS: dict[TypeKind, tuple[type, ...]] = {
    TypeKind.BOOL: (bool,),
    TypeKind.INT: (int,),
    TypeKind.DOUBLE: (int, float),
    TypeKind.STRING: (str,),
    TypeKind.ENUM: (str,),
    TypeKind.BYTES: (str,),
    TypeKind.NUMBER: (int, float),
    TypeKind.SIZED: (str, list, dict),
    TypeKind.COLLECTION: (list, dict),
}


def conform(value: Any, type: ValueType, pointer: Pointer = ()) -> None:
    """Raises MismatchError if a JSON value is not of the type."""
    match type.kind:
        case TypeKind.ANY:
            return
        case _ if value is None and type.nullable:
            return
        case TypeKind.LIST:
            if not isinstance(value, list):
                raise values.MismatchError(pointer, "a list")
            for at, item in enumerate(value):
                conform(item, type.element or ANY, (*pointer, at))
        case TypeKind.OBJECT if type.message is not None:
            values.fill(GetMessageClass(type.message)(), value, pointer)
        case TypeKind.OBJECT | TypeKind.STRUCT:
            if not isinstance(value, dict):
                raise values.MismatchError(pointer, "an object")
            for name, member in type.members.items():
                if name not in value:
                    raise values.MismatchError((*pointer, name), "given")
                conform(value[name], member, (*pointer, name))
        case TypeKind.TIME:
            values.write_message(Timestamp(), value, pointer)
        case _ if type.scalar is not None:
            values.scalar_parser(type.scalar)(value, pointer)
        case _:
            if not isinstance(value, _LITERALS[type.kind]) or (
                isinstance(value, bool) and type.kind is not TypeKind.BOOL
            ):
                raise values.MismatchError(pointer, str(type))
