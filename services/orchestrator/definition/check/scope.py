"""What the paths of a step can see where it stands, and of which type it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.orchestrator.definition.inputs import type_of_input
from services.orchestrator.definition.problems import listed, shown
from services.orchestrator.definition.templates import ERROR, STATUS, Path
from services.orchestrator.definition.types import INT, STRING, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.orchestrator.definition.cel import Condition
    from services.orchestrator.definition.inputs import Inputs

CONTEXT = ("workflow_id", "run_id", "now")
ANYTHING = "anything"  # what a condition names that is not understood


@dataclass(slots=True)
class Scope:
    inputs: Inputs
    ids: frozenset[str]  # of all steps, wherever they stand
    outputs: dict[str, dict[str, ValueType]] = field(default_factory=dict)  # of earlier steps
    passed: dict[str, None] = field(default_factory=dict)  # ids of those earlier in the text
    item: ValueType | None = None  # inside a for_each
    current: str = ""  # the step whose paths are read
    around: tuple[str, ...] = ()  # the steps that it is inside of
    told: frozenset[str] = frozenset()  # what the conditions on the way to it name
    settled: frozenset[str] = frozenset()  # what those name under which a run has ended before
    _order: list[str] = field(default_factory=list)  # of ``passed``

    # Which steps there are.

    def add(self, id: str, outputs: dict[str, ValueType]) -> None:
        self.outputs[id] = outputs
        if id not in self.passed:
            self.passed[id] = None
            self._order.append(id)

    def mark(self) -> int:
        return len(self._order)

    def since(self, mark: int) -> list[str]:
        """Ids of the steps that were added, and can be seen."""
        return [id for id in self._order[mark:] if id in self.outputs]

    def hide(self, mark: int) -> dict[str, dict[str, ValueType]]:
        """Nobody else sees the steps that were added."""
        return {id: self.outputs.pop(id) for id in self.since(mark)}

    def may_be_null(self, ids: Iterable[str], absent: frozenset[str]) -> None:
        """These steps may not have happened."""
        for id in ids:
            outputs = self.outputs[id]
            self.outputs[id] = {name: type.or_null(absent) for name, type in outputs.items()}

    # Which conditions there are.

    def named_by(self, condition: Condition | None) -> frozenset[str]:
        """What a condition names, and what that in turn depends on."""
        if condition is None:
            return frozenset([ANYTHING])
        types = condition.operands
        return frozenset(key for path in types for key in (_key(path), *types[path].absent))

    def is_settled(self, path: Path, type: ValueType) -> bool:
        """Does some condition tell whether it is there?"""
        keys = type.absent | {_key(path), ANYTHING}
        return bool(keys & self.told or keys & self.settled)

    # Where a path leads.

    def look_up(self, path: Path, output: ValueType | None) -> ValueType:
        """LookupError, with what to say about it, if the path leads nowhere."""
        match path.root:
            case "input":
                return type_of_input(self.inputs, path)
            case "output" if output is not None:
                return _descend(output, path.parts, "output")
            case "output":
                raise LookupError("output can be read in output_mapping only")
            case "ctx":
                if len(path.parts) != 1 or path.parts[0] not in CONTEXT:
                    raise LookupError(f"ctx has {', '.join(CONTEXT)} only")
                return STRING
            case "item" | "index":
                return self._look_up_item(path)
            case _:
                return self._look_up_step(path)

    def lacking(self, path: Path, output: ValueType | None) -> Path | None:
        """How much of a path may lead to null, with nobody asking before; None if it may not."""
        found = self.look_up(path, output)
        if path.root == "output":
            return path if found.absent else None
        if not found.absent or path.root == "input" or self.is_settled(path, found):
            return None
        first = 2 if path.root == "steps" else 0
        for length in range(first, len(path.parts)):
            part = Path(path.root, path.parts[:length])
            if self.look_up(part, output).absent:
                return part
        return path

    def _look_up_item(self, path: Path) -> ValueType:
        if self.item is None:
            raise LookupError(f"{path.root} can be read inside for_each only")
        return _descend(self.item if path.root == "item" else INT, path.parts, path.root)

    def _look_up_step(self, path: Path) -> ValueType:
        if not path.parts:
            raise LookupError("name a step: steps.<id>")
        id, *rest = path.parts
        self._must_be_earlier(str(id))
        outputs = self.outputs[str(id)]
        if not rest:
            return ValueType(TypeKind.OBJECT, members=outputs)
        name, *rest = rest
        if name == STATUS and not rest:
            return STRING
        if name == ERROR and not rest:
            return STRING.or_null()
        if name not in outputs:
            known = listed(outputs)
            raise LookupError(f"step {id} has no output {shown(str(name))}; it has {known}")
        return _descend(outputs[str(name)], tuple(rest), f"steps.{id}.{name}")

    def _must_be_earlier(self, id: str) -> None:
        if id in self.outputs:
            return
        if id == self.current:
            raise LookupError(f"step {id} cannot read its own outputs here")
        if id in self.around:
            raise LookupError(f"step {id} is around this one: it has no outputs yet")
        if id in self.passed:
            raise LookupError(f"step {id} cannot be seen from here: it is inside another step")
        if id in self.ids:
            raise LookupError(f"step {id} comes later: only earlier steps can be read")
        raise LookupError(f"unknown step {shown(id)}; earlier steps: {listed(self.outputs)}")


def key_of(id: str) -> str:
    """What a condition names that tells whether a step happened."""
    return f"steps.{id}"


def _key(path: Path) -> str:
    return f"{path.root}.{path.parts[0]}" if path.parts else path.root


def _descend(type: ValueType, parts: tuple[str | int, ...], so_far: str) -> ValueType:
    for part in parts:
        found = type.descend(part)
        if found is None:
            known = f"; it has {', '.join(type.names())}" if type.names() else ""
            raise LookupError(f"{so_far} is {type}: it has no {part!r}{known}")
        type = found
        so_far += f"[{part}]" if isinstance(part, int) else f".{part}"
    return type
