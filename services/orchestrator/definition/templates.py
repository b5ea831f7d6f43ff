"""Templates: JSON whose strings may hold paths, and how they become values.

A string that is one template and nothing else becomes the value with its type. Within a longer
string the value becomes text. ``{{{{`` stands for ``{{``. Keys are never templates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import rfc8785

from services.orchestrator.definition.path import NO_PATH, Path, PathMissingError, parse_path
from services.orchestrator.definition.problems import shown

if TYPE_CHECKING:
    from services.orchestrator.definition.document import Pointer
    from services.orchestrator.definition.path import Scope

_TOKEN = re.compile(r"\{\{\{\{|\{\{(.*?)\}\}|\{\{", re.DOTALL)


class TemplateSyntaxError(ValueError):
    """The text is no template; ``offset`` is where it stops being one."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset


class UnresolvedPathError(ValueError):
    """A template that finds no value, and where in the mapping it stands."""

    def __init__(self, pointer: Pointer, message: str, path: Path) -> None:
        super().__init__(f"{'.'.join(map(str, pointer))}: {message}" if pointer else message)
        self.pointer = pointer
        self.path = path


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A path and its offset in the string."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Template:
    parts: tuple[str | Placeholder, ...]
    whole: Placeholder | None = field(
        init=False
    )  # the path, if the string is that and nothing else

    def __post_init__(self) -> None:
        only = self.parts[0] if len(self.parts) == 1 else None
        object.__setattr__(self, "whole", only if isinstance(only, Placeholder) else None)

    @property
    def paths(self) -> tuple[Placeholder, ...]:
        return tuple(part for part in self.parts if isinstance(part, Placeholder))


@lru_cache(maxsize=4096)
def parse_template(text: str) -> Template:
    """Read a string of a mapping. TemplateSyntax if it opens what it does not close."""
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


def resolve(value: Any, scope: Scope, pointer: Pointer = ()) -> Any:
    """The mapping with every template replaced. Unresolved if a path finds nothing."""
    if isinstance(value, str):
        return _resolve_text(parse_template(value), scope, pointer)
    if isinstance(value, dict):
        return {key: resolve(item, scope, (*pointer, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, scope, (*pointer, at)) for at, item in enumerate(value)]
    return value


def _resolve_text(template: Template, scope: Scope, pointer: Pointer) -> Any:
    try:
        if template.whole:
            return template.whole.path.read(scope)
        return "".join(
            part if isinstance(part, str) else _as_text(part.path, scope, pointer)
            for part in template.parts
        )
    except PathMissingError as error:
        raise UnresolvedPathError(pointer, str(error), error.path) from None


def _as_text(path: Path, scope: Scope, pointer: Pointer) -> str:
    match path.read(scope):
        case str() as text:
            return text
        case None:
            raise UnresolvedPathError(pointer, f"{path} is null and cannot be part of a text", path)
        case int() as number if not isinstance(number, bool):
            return str(number)
        case value:
            try:
                return rfc8785.dumps(value).decode()
            except rfc8785.CanonicalizationError:
                message = f"{path} holds numbers that JSON cannot hold"
                raise UnresolvedPathError(pointer, message, path) from None


def _path(token: re.Match[str]) -> Path:
    if token[1] is None:
        raise TemplateSyntaxError(
            "'{{' is never closed; write '{{{{' for the characters", token.start()
        )
    path = parse_path(token[1])
    if path is None:
        raise TemplateSyntaxError(
            f"{shown(token[1].strip())} {NO_PATH}",
            token.start(),
        )
    return path
