"""The syntax tree of a CEL expression: the parts of it that decide types and costs.

The messages are those of cel/expr/syntax.proto of the CEL specification, by their field numbers.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message_factory import GetMessageClass

if TYPE_CHECKING:
    from google.protobuf.message import Message

_FIELD = descriptor_pb2.FieldDescriptorProto
_STRING, _BOOL, _INT64 = _FIELD.TYPE_STRING, _FIELD.TYPE_BOOL, _FIELD.TYPE_INT64
_BYTES = _FIELD.TYPE_BYTES
_UINT64, _DOUBLE, _ENUM = _FIELD.TYPE_UINT64, _FIELD.TYPE_DOUBLE, _FIELD.TYPE_INT32

# Message -> field -> (number, type). A type is that of a scalar, or the name of a message, with *
# if the field is repeated.
_MESSAGES: dict[str, dict[str, tuple[int, int | str]]] = {
    "Parsed": {"expr": (2, "Expr")},
    "Expr": {
        "constant": (3, "Constant"),
        "ident": (4, "Ident"),
        "select": (5, "Select"),
        "call": (6, "Call"),
        "list": (7, "List"),
        "struct": (8, "Struct"),
        "comprehension": (9, "Comprehension"),
    },
    "Constant": {
        "null": (1, _ENUM),
        "bool": (2, _BOOL),
        "int": (3, _INT64),
        "uint": (4, _UINT64),
        "double": (5, _DOUBLE),
        "string": (6, _STRING),
        "bytes": (7, _BYTES),
    },
    "Ident": {"name": (1, _STRING)},
    "Select": {"operand": (1, "Expr"), "field": (2, _STRING)},
    "Call": {"target": (1, "Expr"), "function": (2, _STRING), "args": (3, "*Expr")},
    "List": {"elements": (1, "*Expr")},
    "Struct": {"entries": (2, "*Entry")},
    "Entry": {"key": (3, "Expr"), "value": (4, "Expr")},
    "Comprehension": {
        "item": (1, _STRING),
        "second": (8, _STRING),
        "range": (2, "Expr"),
        "accumulator": (3, _STRING),
        "initial": (4, "Expr"),
        "condition": (5, "Expr"),
        "step": (6, "Expr"),
        "result": (7, "Expr"),
    },
}
_PACKAGE = "anya.cel"


def parse_expression(text: str) -> Any | None:
    """Returns the tree of an expression, an ``Expr``, or None if the text is no expression."""
    try:
        serialized = _environment().compile(text, disable_check=True).serialize()
    except RuntimeError:
        return None
    return _parsed().FromString(Packed.FromString(serialized).value).expr  # type: ignore[attr-defined]


def dotted_name(tree: Any) -> str | None:
    """Returns the name of a chain such as ``input.a.b``; None if it begins with no identifier."""
    parts: list[str] = []
    while tree.HasField("select"):
        parts.append(tree.select.field)
        tree = tree.select.operand
    return ".".join([tree.ident.name, *reversed(parts)]) if tree.HasField("ident") else None


@cache
def _environment() -> Any:
    return cel.NewEnv()


@cache
def _parsed() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(name="cel.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, type) in fields.items():
            _declare(message, field, number, type)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Parsed"))


def _declare(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, type: int | str
) -> None:
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if isinstance(type, int):
        field.type = type  # type: ignore[assignment]
        field.oneof_index = len(message.oneof_decl)  # so that HasField works
        message.oneof_decl.add(name=f"_{name}")
        field.proto3_optional = True
    else:
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{type.removeprefix('*')}"
        if type.startswith("*"):
            field.label = _FIELD.LABEL_REPEATED
