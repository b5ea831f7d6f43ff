"""What the paths of a step can see where it stands, and of which type it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.orchestrator.definition import inference
from services.orchestrator.definition.path import ERROR, STATUS, Path
from services.orchestrator.definition.types import INT, STRING, Kind, Type

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.orchestrator.definition.workflow import Inputs

CONTEXT = ("workflow_id", "run_id", "now")


@dataclass(slots=True)
class Visible:
    inputs: Inputs
    ids: frozenset[str]  # of all steps, wherever they stand
    outputs: dict[str, dict[str, Type]] = field(default_factory=dict)  # of earlier steps
    passed: set[str] = field(default_factory=set)  # ids of steps that stand earlier in the text
    item: Type | None = None  # inside a for_each
    current: str = ""  # the step whose paths are read

    def add(self, id: str, outputs: dict[str, Type]) -> None:
        self.outputs[id] = outputs
        self.passed.add(id)

    def may_be_null(self, ids: Iterable[str]) -> None:
        """These steps may not have happened."""
        for id in ids:
            self.outputs[id] = {name: type.or_null() for name, type in self.outputs[id].items()}

    def look_up(self, path: Path, output: Type | None) -> Type:
        """LookupError, with what to say about it, if the path leads nowhere."""
        match path.root:
            case "input":
                return inference.type_of_input(self.inputs, path)
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

    def _look_up_item(self, path: Path) -> Type:
        if self.item is None:
            raise LookupError(f"{path.root} can be read inside for_each only")
        return _descend(self.item if path.root == "item" else INT, path.parts, path.root)

    def _look_up_step(self, path: Path) -> Type:
        if not path.parts:
            raise LookupError("name a step: steps.<id>")
        id, *rest = path.parts
        self._must_be_earlier(str(id))
        outputs = self.outputs[str(id)]
        if not rest:
            return Type(Kind.OBJECT, members=outputs)
        name, *rest = rest
        if name == STATUS and not rest:
            return STRING
        if name == ERROR and not rest:
            return STRING.or_null()
        if name not in outputs:
            known = ", ".join(outputs) or "none"
            raise LookupError(f"step {id} has no output {name!r}; its output_mapping has {known}")
        return _descend(outputs[str(name)], tuple(rest), f"steps.{id}.{name}")

    def _must_be_earlier(self, id: str) -> None:
        if id in self.outputs:
            return
        if id == self.current:
            raise LookupError(f"step {id} cannot read its own outputs here")
        if id in self.passed:
            raise LookupError(f"step {id} cannot be seen from here: it is inside another step")
        if id in self.ids:
            raise LookupError(f"step {id} comes later: only earlier steps can be read")
        earlier = ", ".join(self.outputs) or "none"
        raise LookupError(f"unknown step {id!r}; earlier steps: {earlier}")


def _descend(type: Type, parts: tuple[str | int, ...], so_far: str) -> Type:
    for part in parts:
        found = type.descend(part)
        if found is None:
            known = f"; it has {', '.join(type.names())}" if type.names() else ""
            raise LookupError(f"{so_far} is {type}: it has no {part!r}{known}")
        type = found
        so_far += f"[{part}]" if isinstance(part, int) else f".{part}"
    return type
