"""What a workflow reads of its input, and what it asks of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.path import Path, PathMissingError
from services.orchestrator.definition.types import ANY, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a workflow reads of its input, with the type of the field it is first mapped to."""

    declared: Mapping[Path, ValueType]
    takes_all: bool = False  # the input is used as a whole: any member may be there
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(str(path.parts[0]) for path in self.declared)
        object.__setattr__(self, "names", tuple(names))

    def check(self, given: dict[str, Any]) -> None:
        """Mismatch naming the member that is missing, not declared or of the wrong type."""
        if not self.takes_all and (strangers := given.keys() - set(self.names)):
            raise values.MismatchError(
                (min(strangers),), f"left out: the inputs are {', '.join(self.names) or 'none'}"
            )
        for path, type in self.declared.items():
            try:
                value = path.read({"input": given})
            except PathMissingError:
                raise values.MismatchError(path.parts, "given") from None
            values.conform(value, type, path.parts)

    def as_type(self) -> ValueType:
        """The inputs as the request of an operation."""
        members = {name: self._below((name,)) for name in self.names}
        return ValueType(TypeKind.OBJECT, members=members, open=self.takes_all)

    def _below(self, parts: tuple[str | int, ...]) -> ValueType:
        """Of an input, or of a member of one that is read member by member."""
        found, size = self.declared.get(Path("input", parts), ANY), len(parts)
        deeper = [path.parts for path in self.declared if path.parts[:size] == parts != path.parts]
        inner = dict.fromkeys(path[size] for path in deeper)
        if found.kind is not TypeKind.ANY or not all(isinstance(part, str) for part in inner):
            return found
        members = {str(part): self._below((*parts, part)) for part in inner}
        return (
            ValueType(TypeKind.OBJECT, members=members, open=True, showable=False)
            if inner
            else found
        )
