"""The shape of a definition: which keys there are, and what kind of value each holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition.faults import DefinitionInvalid

if TYPE_CHECKING:
    from collections.abc import Collection

    from services.orchestrator.definition.document import Document, Pointer
    from services.orchestrator.definition.faults import Fault

MAX_STEPS = 100
MAX_NAME = 200  # characters
MAX_ID = 48  # characters

# What CEL keeps for itself cannot be part of a path in a condition.
# fmt: off
RESERVED = frozenset([
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in",
    "let", "loop", "namespace", "null", "package", "return", "true", "var", "void", "while",
])
# fmt: on

_ID = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class RawStep:
    pointer: Pointer
    id: str
    protocol: str
    operation: str
    condition: str | None
    input_mapping: dict[str, Any]
    output_mapping: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RawWorkflow:
    id: str
    name: str
    steps: tuple[RawStep, ...]


def parse_workflow(document: Document) -> RawWorkflow:
    """DefinitionInvalid with everything that is out of shape."""
    parser = _Parser(document)
    workflow = parser.workflow()
    if parser.faults:
        raise DefinitionInvalid(sorted(parser.faults))
    return workflow


class _Parser:
    """Goes on after a fault with an empty value, to report all of them at once."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.faults: list[Fault] = []

    def workflow(self) -> RawWorkflow:
        top = self._object((), self._document.value)
        self._keys((), top, required=("id", "name", "steps"))
        name = self._text(("name",), top)
        if len(name) > MAX_NAME:
            self._fault(("name",), f"longer than {MAX_NAME} characters")
        return RawWorkflow(self._id(("id",), top), name, self._steps(top))

    def _steps(self, top: dict[str, Any]) -> tuple[RawStep, ...]:
        raw = top.get("steps", [])
        if not isinstance(raw, list) or not ("steps" not in top or 1 <= len(raw) <= MAX_STEPS):
            self._fault(("steps",), f"must be a list of 1 to {MAX_STEPS} steps")
            return ()
        steps = tuple(self._step(("steps", at), step) for at, step in enumerate(raw))
        seen: set[str] = set()
        for step in steps:
            if step.id and step.id in seen:
                self._fault((*step.pointer, "id"), f"another step is called {step.id}")
            seen.add(step.id)
        return steps

    def _step(self, pointer: Pointer, value: Any) -> RawStep:
        step = self._object(pointer, value)
        required = ("id", "protocol", "operation", "input_mapping", "output_mapping")
        self._keys(pointer, step, required=required, optional=("condition",))
        condition = self._text((*pointer, "condition"), step) if "condition" in step else None
        outputs = self._member((*pointer, "output_mapping"), step)
        for name in outputs:
            if not _is_id(name) or name.startswith("_"):
                self._key_fault((*pointer, "output_mapping", name), _not_an_id(name))
        return RawStep(
            pointer=pointer,
            id=self._id((*pointer, "id"), step),
            protocol=self._text((*pointer, "protocol"), step),
            operation=self._text((*pointer, "operation"), step),
            condition=condition,
            input_mapping=self._member((*pointer, "input_mapping"), step),
            output_mapping=outputs,
        )

    def _keys(
        self,
        pointer: Pointer,
        value: dict[str, Any],
        *,
        required: Collection[str],
        optional: Collection[str] = (),
    ) -> None:
        known = (*required, *optional)
        for key in value:
            if key not in known:
                self._key_fault((*pointer, key), f"unknown key {key!r}; known: {', '.join(known)}")
        if isinstance(self._value(pointer), dict):
            for key in required:
                if key not in value:
                    self._fault(pointer, f"{key} is missing")

    def _value(self, pointer: Pointer) -> Any:
        value = self._document.value
        for part in pointer:
            value = value[part]
        return value

    def _object(self, pointer: Pointer, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._fault(pointer, "must be an object")
        return {}

    def _member(self, pointer: Pointer, parent: dict[str, Any]) -> dict[str, Any]:
        name = str(pointer[-1])
        return self._object(pointer, parent[name]) if name in parent else {}

    def _text(self, pointer: Pointer, parent: dict[str, Any]) -> str:
        name = str(pointer[-1])
        if name not in parent:
            return ""
        value = parent[name]
        if isinstance(value, str) and value.strip():
            return value
        self._fault(pointer, "must be a text")
        return ""

    def _id(self, pointer: Pointer, parent: dict[str, Any]) -> str:
        id = self._text(pointer, parent)
        if id and (not _is_id(id) or id.startswith("_")):
            self._fault(pointer, _not_an_id(id))
        return id

    def _fault(self, pointer: Pointer, message: str) -> None:
        self.faults.append(self._document.fault(pointer, message))

    def _key_fault(self, pointer: Pointer, message: str) -> None:
        self.faults.append(self._document.key_fault(pointer, message))


def _is_id(text: str) -> bool:
    return len(text) <= MAX_ID and _ID.fullmatch(text) is not None and text not in RESERVED


def _not_an_id(text: str) -> str:
    if text in RESERVED:
        return f"{text!r} is reserved by the language of conditions; choose another name"
    return (
        f"{text!r} must be 1 to {MAX_ID} of a-z, 0-9 and _, beginning with a letter"
        " (names with a leading _ are the engine's)"
    )
