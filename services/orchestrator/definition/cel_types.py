"""Infers the types of variables of a CEL expression from their uses in its syntax tree."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.cel_ast import dotted_name, parse_expression
from services.orchestrator.definition.types import (
    ANY,
    BOOL,
    COLLECTION,
    NUMBER,
    SIZED,
    STRING,
    TypeKind,
    ValueType,
    forms,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BOOLEAN = ("_&&_", "_||_", "!_", "@not_strictly_false")
_EQUAL = ("_==_", "_!=_")
_ORDER = ("_<_", "_<=_", "_>_", "_>=_")
_NUMERIC = ("_-_", "_*_", "_/_", "_%_", "-_")
_OF_TEXTS = ("startsWith", "endsWith", "contains", "matches")
_CONSTANTS = {
    "bool": BOOL,
    "int": NUMBER,
    "uint": NUMBER,
    "double": NUMBER,
    "string": STRING,
    "null": ANY.or_null(),
}


def uses_of(text: str, known: Mapping[str, ValueType]) -> dict[str, list[ValueType]]:
    """Returns, for each variable, the types that the expression uses it as.

    ``known`` holds the types of the variables that have one.
    """
    tree = parse_expression(text)
    if tree is None:
        return {}
    reader = _UseReader({name: _comparable(type) for name, type in known.items()})
    reader.read(tree, BOOL)
    return reader.found


def common_use(types: Iterable[ValueType]) -> ValueType:
    """Returns the type that fits all of these uses.

    Returns ANY if there are no uses, or if no one type fits them all.
    """
    found, nullable = ANY, False
    for type in types:
        nullable |= type.nullable
        if type.kind is TypeKind.ANY:
            continue
        if found.kind is TypeKind.ANY or forms(type) < forms(found):
            found = type
        elif not forms(found) <= forms(type):
            return ANY
    return replace(found, nullable=nullable, showable=False)


def _comparable(type: ValueType) -> ValueType:
    """Returns the type that values have which are compared with one of ``type``."""
    if type.nullable:
        return ANY
    match type.kind:
        case TypeKind.BOOL:
            return BOOL
        case TypeKind.INT | TypeKind.DOUBLE | TypeKind.NUMBER:
            return NUMBER
        case TypeKind.STRING | TypeKind.ENUM | TypeKind.BYTES | TypeKind.TIME:
            return STRING
        case _:
            return ANY


@dataclass(slots=True)
class _UseReader:
    known: Mapping[str, ValueType]
    found: dict[str, list[ValueType]] = field(default_factory=dict)

    def read(self, tree: Any, wanted: ValueType) -> None:
        """Notes the uses of the variables in a tree whose value is used as ``wanted``."""
        match _kind(tree):
            case "ident" | "select":
                name = dotted_name(tree)
                if name is not None:
                    self.found.setdefault(name, []).append(wanted)
            case "call":
                self._read_call(tree.call, wanted)
            case "list":
                for element in tree.list.elements:
                    self.read(element, ANY)
            case "comprehension":
                self.read(tree.comprehension.range, COLLECTION)
                self.read(tree.comprehension.condition, ANY)
                self.read(tree.comprehension.step, ANY)
            case _:
                pass

    def _read_call(self, call: Any, wanted: ValueType) -> None:
        args = list(call.args)
        if call.HasField("target"):
            args.insert(0, call.target)
        for arg, wanted_of_it in zip(
            args, self._argument_types(call.function, args, wanted), strict=True
        ):
            self.read(arg, wanted_of_it)

    def _argument_types(self, function: str, args: list[Any], wanted: ValueType) -> list[ValueType]:
        """Returns the type that each argument of a call is used as."""
        match function:
            case _ if function in _BOOLEAN:
                return [BOOL for _ in args]
            case "_?_:_":
                return [BOOL, wanted, wanted]
            case _ if function in (*_EQUAL, *_ORDER, "_+_") and len(args) == 2:
                return [self._type_of(args[1]), self._type_of(args[0])]
            case "@in":
                return [self._element(args[1]), COLLECTION]
            case "size":
                return [SIZED for _ in args]
            case _ if function in _NUMERIC:
                return [self._if_number(args) for _ in args]
            case _ if function in _OF_TEXTS:
                return [STRING for _ in args]
            case _:
                return [ANY for _ in args]

    def _if_number(self, args: list[Any]) -> ValueType:
        """Returns NUMBER if one operand is a number: times and durations are subtracted, too."""
        return NUMBER if NUMBER in [self._type_of(arg) for arg in args] else ANY

    def _element(self, tree: Any) -> ValueType:
        types = [self._type_of(element) for element in tree.list.elements]
        return types[0] if types and all(type == types[0] for type in types) else ANY

    def _type_of(self, tree: Any) -> ValueType:
        match _kind(tree):
            case "constant":
                names = (name for name in _CONSTANTS if tree.constant.HasField(name))
                return _CONSTANTS.get(next(names, ""), ANY)
            case "ident" | "select":
                return self.known.get(dotted_name(tree) or "", ANY)
            case "call":
                return self._result(tree.call)
            case _:
                return ANY

    def _result(self, call: Any) -> ValueType:
        match call.function:
            case "size":
                return NUMBER
            case function if function in (*_BOOLEAN, *_EQUAL, *_ORDER, *_OF_TEXTS, "@in"):
                return BOOL
            case function if function in _NUMERIC:
                return self._if_number(list(call.args))
            case "_+_":
                types = [self._type_of(arg) for arg in call.args]
                return next((type for type in types if type in (NUMBER, STRING)), ANY)
            case _:
                return ANY


def _kind(tree: Any) -> str | None:
    kinds = ("constant", "ident", "select", "call", "list", "comprehension")
    return next((kind for kind in kinds if tree.HasField(kind)), None)
