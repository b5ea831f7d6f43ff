"""Templates: JSON whose strings may hold paths in ``{{ }}``, and the values they resolve to.

A string that is one template and nothing else becomes the value of its path, with its type. Within
a longer string the value becomes text. ``{{{{`` stands for ``{{``. Keys are never templates.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import rfc8785

from services.orchestrator.definition.problems import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.orchestrator.definition.source import Pointer

# The values that paths read, as JSON: "input", "steps" and "ctx"; in an output mapping also
# "output", and inside a for_each "item" and "index".
Variables: TypeAlias = "Mapping[str, Any]"

STATUS = "_status"  # beside the outputs of a step: SUCCEEDED, SKIPPED or FAILED
ERROR = "_error"  # beside them: reason or code of the failure, null if there was none
OWN = (STATUS, ERROR)

ROOTS = ("input", "steps", "output", "ctx", "item", "index")

MAX_PARTS = 32  # no value is nested deeper
MAX_PLACEHOLDERS = 128  # in one step: each may be as large as a record
MAX_TEXT_CHARS = 1 << 20  # of a text that templates make
MAX_EMBEDDED_BYTES = 4096  # of a list or an object that becomes part of a text
NO_PATH = f"is no path; one begins with {', '.join(ROOTS)}, and has at most {MAX_PARTS} parts"

_PART_OF = r"(?:\.[A-Za-z_][A-Za-z0-9_]*|\[[0-9]{1,6}\])"
_PATH = re.compile(rf"({'|'.join(ROOTS)})({_PART_OF}{{0,{MAX_PARTS}}})")
_PART = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[([0-9]+)\]")
_TOKEN = re.compile(r"\{\{\{\{|\{\{(.*?)\}\}|\{\{", re.DOTALL)


class PathMissingError(LookupError):
    """The value of a path does not exist. It is never read as empty."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} does not exist")
        self.path = path


@dataclass(frozen=True, slots=True)
class Path:
    """A path such as ``steps.a.list[0]``."""

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

    def read(self, variables: Variables) -> Any:
        """Returns the value of the path. Raises PathMissingError if there is none."""
        try:
            value: Any = variables[self.root]
            for part in self.parts:
                if not isinstance(value, list if isinstance(part, int) else dict):
                    raise PathMissingError(self)
                value = value[part]  # type: ignore[index]  # a list's part is a number
        except LookupError:
            raise PathMissingError(self) from None
        if self.root == "steps" and len(self.parts) == 1:
            return {name: output for name, output in value.items() if name not in OWN}
        return value


def parse_path(text: str) -> Path | None:
    """Returns the path, or None if the text is no path."""
    found = _PATH.fullmatch(text.strip())
    if found is None:
        return None
    parts = (name or int(index) for name, index in _PART.findall(found[2]))
    return Path(found[1], tuple(parts))


class TemplateSyntaxError(ValueError):
    """A text is no template. ``offset`` is the place of the mistake."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class UnresolvedPathError(ValueError):
    """A template has no value. ``pointer`` is its place in the mapping."""

    def __init__(self, pointer: Pointer, message: str, path: Path) -> None:
        super().__init__(f"{'.'.join(map(str, pointer))}: {message}" if pointer else message)
        self.pointer = pointer
        self.path = path
        self._message = message

    def inside(self, key: str | int) -> UnresolvedPathError:
        """Returns the error of the mapping that holds this one's under ``key``."""
        return UnresolvedPathError((key, *self.pointer), self._message, self.path)


_to_json = json.JSONEncoder(ensure_ascii=False).encode


class ResolvedSize:
    """Sums the sizes of the values that templates resolve to, before they are written.

    One large value is no cost as long as it is shared, but each mention of it is written out.
    """

    __slots__ = ("_known", "_left", "_most")

    def __init__(self, most_bytes: int) -> None:
        self._most = self._left = most_bytes
        self._known: dict[int, tuple[Any, int]] = {}  # lists and objects, and their sizes

    def add(self, value: Any, path: Path) -> None:
        """Raises UnresolvedPathError once the values are larger than they may be."""
        self._left -= self.bytes_of(value)
        if self._left < 0:
            message = f"{path} makes it too large: a record holds {self._most} bytes"
            raise UnresolvedPathError((), message, path)

    def bytes_of(self, value: Any) -> int:
        """Returns the size of a value as JSON, computed once for each list and object."""
        if isinstance(value, str):
            return len(value)
        if not isinstance(value, dict | list):
            return 0
        if id(value) not in self._known:
            self._known[id(value)] = value, len(_to_json(value))
        return self._known[id(value)][1]


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A path and its offset in the string."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed string: texts and placeholders."""

    parts: tuple[str | Placeholder, ...]
    # The placeholder, if the string is nothing else.
    whole: Placeholder | None = field(init=False)

    def __post_init__(self) -> None:
        only = self.parts[0] if len(self.parts) == 1 else None
        object.__setattr__(self, "whole", only if isinstance(only, Placeholder) else None)

    @property
    def paths(self) -> tuple[Placeholder, ...]:
        return tuple(part for part in self.parts if isinstance(part, Placeholder))


@lru_cache(maxsize=4096)
def parse_template(text: str) -> Template:
    """Reads a string of a mapping. Raises TemplateSyntaxError if a path is malformed."""
    parts: list[str | Placeholder] = []
    literal, end = "", 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token[0] == "{{{{":
            literal += "{{"
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(Placeholder(_path(token), token.start()))
    literal += text[end:]
    if literal:
        parts.append(literal)
    spaced = [part for part in parts if not (isinstance(part, str) and part.isspace())]
    return Template(tuple(spaced if len(spaced) == 1 else parts))


def resolve(value: Any, variables: Variables, size: ResolvedSize | None = None) -> Any:
    """Returns the value with every template replaced.

    Raises UnresolvedPathError if a path has no value, or if ``size`` does not allow for it.
    """
    if isinstance(value, str):
        return _resolve_text(parse_template(value), variables, size)
    found: Any
    members: Iterable[tuple[str | int, Any]]
    if isinstance(value, dict):
        found, members = {}, value.items()
    elif isinstance(value, list):
        found, members = [None] * len(value), enumerate(value)
    else:
        return value
    for key, item in members:
        try:
            found[key] = resolve(item, variables, size)
        except UnresolvedPathError as error:
            raise error.inside(key) from None
    return found


def _resolve_text(template: Template, variables: Variables, size: ResolvedSize | None) -> Any:
    try:
        if template.whole:
            path = template.whole.path
            value = path.read(variables)
            if size is not None:
                size.add(value, path)
            return value
        texts, length = [], 0
        for part in template.parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            texts.append(_as_text(part.path, variables, size))
            length += len(texts[-1])
            if length > MAX_TEXT_CHARS:
                message = f"{part.path} makes it too large: a record holds {MAX_TEXT_CHARS} bytes"
                raise UnresolvedPathError((), message, part.path)
            if size is not None:
                size.add(texts[-1], part.path)
        return "".join(texts)
    except PathMissingError as error:
        raise UnresolvedPathError((), str(error), error.path) from None


def _as_text(path: Path, variables: Variables, size: ResolvedSize | None) -> str:
    match path.read(variables):
        case str() as text:
            return text
        case None:
            raise UnresolvedPathError((), f"{path} is null and cannot be part of a text", path)
        case int() as number if not isinstance(number, bool):
            return str(number)
        case value:
            length = len(_to_json(value)) if size is None else size.bytes_of(value)
            if length > MAX_EMBEDDED_BYTES:
                message = f"{path} is larger than {MAX_EMBEDDED_BYTES} bytes, too large for a text"
                raise UnresolvedPathError((), message, path)
            try:
                return rfc8785.dumps(value).decode()
            except rfc8785.CanonicalizationError:
                message = f"{path} holds numbers that JSON cannot hold"
                raise UnresolvedPathError((), message, path) from None


def _path(token: re.Match[str]) -> Path:
    if token[1] is None:
        raise TemplateSyntaxError(
            "'{{' is never closed; write '{{{{' for the two characters", token.start()
        )
    path = parse_path(token[1])
    if path is None:
        raise TemplateSyntaxError(
            f"{shown(token[1].strip())} {NO_PATH}",
            token.start(),
        )
    return path
