"""The inputs of a workflow: what it reads of a run's input, and of which types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import values
from services.orchestrator.definition.conformance import conform
from services.orchestrator.definition.templates import Path, PathMissingError
from services.orchestrator.definition.types import ANY, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Inputs:
    """Every path of the input that a workflow reads, with its type."""

    declared: Mapping[Path, ValueType]
    takes_all: bool = False  # the workflow reads the input as a whole: any member is allowed
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = dict.fromkeys(str(path.parts[0]) for path in self.declared)
        object.__setattr__(self, "names", tuple(names))

    def check(self, given: dict[str, Any]) -> None:
        """Raises MismatchError if a member is missing, is not declared or has the wrong type."""
        if not self.takes_all and (unknown := given.keys() - set(self.names)):
            raise values.MismatchError(
                (min(unknown),), f"left out: the inputs are {', '.join(self.names) or 'none'}"
            )
        for path, type in self.declared.items():
            try:
                value = path.read({"input": given})
            except PathMissingError:
                raise values.MismatchError(path.parts, "given") from None
            conform(value, type, path.parts)

    def type_of(self, path: Path) -> ValueType:
        """Returns the type of the path itself, or what the type of an object around it says.

        Raises LookupError if the type of that object has no such member.
        """
        for length in range(len(path.parts), 0, -1):
            type = self.declared.get(Path(path.root, path.parts[:length]), ANY)
            if type.kind is TypeKind.ANY:
                continue
            for part in path.parts[length:]:
                inner = type.descend(part)
                if inner is None:
                    raise LookupError(f"{path} does not exist: {type} has no {part!r}")
                type = inner
            return type
        return ANY

    def as_type(self) -> ValueType:
        """Returns the inputs as the request of an operation."""
        members = {name: self._member_type((name,)) for name in self.names}
        return ValueType(TypeKind.OBJECT, members=members, open=self.takes_all)

    def _member_type(self, parts: tuple[str | int, ...]) -> ValueType:
        """Returns the type of an input, or of a member, from the members that are read of it."""
        found, size = self.declared.get(Path("input", parts), ANY), len(parts)
        deeper = [path.parts for path in self.declared if path.parts[:size] == parts != path.parts]
        inner = dict.fromkeys(path[size] for path in deeper)
        if not inner or found.kind is not TypeKind.ANY:
            return found
        if not all(isinstance(part, str) for part in inner):
            return found
        members = {str(part): self._member_type((*parts, part)) for part in inner}
        return ValueType(TypeKind.OBJECT, members=members, open=True, showable=False)
