"""Paths: what stands between ``{{`` and ``}}``, and what it finds when a step runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a path can see, as JSON: "input", "steps", "ctx"; in an output mapping "output", and in what
# is done for each of several items "item" and "index".
Scope: TypeAlias = "Mapping[str, Any]"

STATUS = "_status"  # of a step: SUCCEEDED, SKIPPED or FAILED, beside its outputs
ERROR = "_error"  # of a step: the reason or code of what it failed with, null if it did not
OWN = (STATUS, ERROR)

ROOTS = ("input", "steps", "output", "ctx", "item", "index")

MAX_PARTS = 32  # no value is deeper
NO_PATH = f"is no path; one begins with {', '.join(ROOTS)}, and has at most {MAX_PARTS} parts"

_PART_OF = r"(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]{1,6}\])"
_PATH = re.compile(rf"({'|'.join(ROOTS)})({_PART_OF}{{0,{MAX_PARTS}}})")
_PART = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]+)\]")


class PathMissingError(LookupError):
    """The value that a path names does not exist; never read as empty."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} does not exist")
        self.path = path


@dataclass(frozen=True, slots=True)
class Path:
    root: str
    parts: tuple[str | int, ...]
    # The same path as CEL lexes it: ``steps.a.list._0`` for ``steps.a.list[0]``.
    variable: str = field(init=False, compare=False, repr=False)
    _text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = (f"_{part}" if isinstance(part, int) else part for part in self.parts)
        object.__setattr__(self, "variable", ".".join((self.root, *names)))
        steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.parts)
        object.__setattr__(self, "_text", self.root + "".join(steps))

    def __str__(self) -> str:
        return self._text

    def read(self, scope: Scope) -> Any:
        try:
            value = scope[self.root]
            for part in self.parts:
                value = self._descend(value, part)
        except LookupError:
            raise PathMissingError(self) from None
        if self.root == "steps" and len(self.parts) == 1:
            return {name: output for name, output in value.items() if name not in OWN}
        return value

    def _descend(self, value: Any, part: str | int) -> Any:
        """LookupError if there is no such member or item."""
        if isinstance(part, str) and isinstance(value, dict):
            return value[part]
        if isinstance(part, int) and isinstance(value, list):
            return value[part]
        raise PathMissingError(self)


def parse_path(text: str) -> Path | None:
    """The path, or None if the text is none."""
    found = _PATH.fullmatch(text.strip())
    if found is None:
        return None
    parts = (name or int(index) for name, index in _PART.findall(found[2]))
    return Path(found[1], tuple(parts))
