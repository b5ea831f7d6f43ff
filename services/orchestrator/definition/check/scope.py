"""The scope of a step: which paths it can read, and of which types they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.orchestrator.definition.problems import listed, shown
from services.orchestrator.definition.templates import ERROR, STATUS, Path
from services.orchestrator.definition.types import INT, STRING, TypeKind, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.orchestrator.definition.cel import Condition
    from services.orchestrator.definition.inputs import Inputs

CONTEXT = ("workflow_id", "run_id", "now")
EVERYTHING = "everything"  # named by a condition that does not compile

# Kinds of the blocks that steps stand in.
PARALLEL = "parallel"
RACE = "race"  # a parallel that waits for the first branch
EACH = "for_each"
EACH_IN_TURN = "each_in_turn"  # a for_each of one item at a time that ends with the first failure
SWITCH = "switch"
ON_ERROR = "on_error"


@dataclass(slots=True)
class Scope:
    """Changes while the checker walks over the steps in the order of the text."""

    inputs: Inputs
    ids: frozenset[str]  # of all steps of the definition
    outputs: dict[str, dict[str, ValueType]] = field(default_factory=dict)  # of readable steps
    item: ValueType | None = None  # inside a for_each
    current: str = ""  # id of the step whose paths are read
    enclosing: tuple[str, ...] = ()  # ids of the steps around it, outermost first
    blocks: tuple[str, ...] = ()  # kinds of the blocks around it, outermost first
    item_origins: tuple[str, ...] = ()  # of each for_each around: its list, as a path of the input
    # What a condition names is guarded: the condition may compare it with null.
    guarded: frozenset[str] = frozenset()  # by the conditions of this step and of those around
    guarded_by_end: frozenset[str] = frozenset()  # the run has ended if such a condition held
    _earlier: list[str] = field(default_factory=list)  # ids, in the order of the text

    @property
    def items_around(self) -> int:
        """The number of for_each around the step."""
        return sum(kind in (EACH, EACH_IN_TURN) for kind in self.blocks)

    # The steps that can be read.

    def add(self, id: str, outputs: dict[str, ValueType]) -> None:
        """Makes the outputs of a step readable."""
        self.outputs[id] = outputs
        self._earlier.append(id)

    def mark(self) -> int:
        """Returns a position for ``since`` and ``hide_since``."""
        return len(self._earlier)

    def since(self, mark: int) -> list[str]:
        """Returns the ids of the readable steps that were added after the mark."""
        return [id for id in self._earlier[mark:] if id in self.outputs]

    def hide_since(self, mark: int) -> dict[str, dict[str, ValueType]]:
        """Removes the steps that were added after the mark, and returns their outputs."""
        return {id: self.outputs.pop(id) for id in self.since(mark)}

    def make_nullable(self, ids: Iterable[str], absent: frozenset[str]) -> None:
        """Lets the outputs of steps be null, as the run may skip these steps."""
        for id in ids:
            outputs = self.outputs[id]
            self.outputs[id] = {name: type.or_null(absent) for name, type in outputs.items()}

    # Conditions.

    def named_by(self, condition: Condition | None) -> frozenset[str]:
        """Returns the names in a condition, and the names that their absence depends on."""
        if condition is None:
            return frozenset([EVERYTHING])
        types = condition.operands
        return frozenset(key for path in types for key in (_key(path), *types[path].absent))

    def is_guarded(self, path: Path, type: ValueType) -> bool:
        """Returns whether a condition rules out that the path is null."""
        keys = type.absent | {_key(path), EVERYTHING}
        return bool(keys & self.guarded or keys & self.guarded_by_end)

    # Paths.

    def look_up(self, path: Path, output: ValueType | None) -> ValueType:
        """Returns the type of a path. Raises LookupError, with the message, if there is none.

        ``output`` is the type of the reply, which an output_mapping can read.
        """
        match path.root:
            case "input":
                return self.inputs.type_of(path)
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

    def nullable_part(self, path: Path, output: ValueType | None) -> Path | None:
        """Returns the shortest part of a path that may be null, or None if no part may be.

        A part that a condition guards is not null.
        """
        found = self.look_up(path, output)
        if path.root == "output":
            return path if found.absent else None
        if not found.absent or path.root == "input" or self.is_guarded(path, found):
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
        self._require_readable(str(id))
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

    def _require_readable(self, id: str) -> None:
        if id in self.outputs:
            return
        if id == self.current:
            raise LookupError(f"step {id} cannot read its own outputs here")
        if id in self.enclosing:
            raise LookupError(f"step {id} is around this one: it has no outputs yet")
        if id in self._earlier:
            raise LookupError(f"step {id} cannot be seen from here: it is inside another step")
        if id in self.ids:
            raise LookupError(f"step {id} comes later: only earlier steps can be read")
        raise LookupError(f"unknown step {shown(id)}; earlier steps: {listed(self.outputs)}")


def step_key(id: str) -> str:
    """Returns what a condition names that asks whether a step happened."""
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
