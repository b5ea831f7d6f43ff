"""Page tokens: where the last page ended, good only for the list that gave them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def page_size(asked: int, *, default: int, most: int) -> int:
    if asked < 0:
        raise InvalidArgument("page_size must not be negative", field="page_size")
    return min(asked or default, most)


def make_token(list_: str, *position: str | int) -> str:
    return base64.urlsafe_b64encode(json.dumps([list_, *position]).encode()).decode()


def cut(
    found: Sequence[T], limit: int, list_: str, position: Callable[[T], str | int]
) -> tuple[Sequence[T], str]:
    """A page of what was found, one more than it holds at most; and the token of the next one."""
    shown = found[:limit]
    return shown, make_token(list_, position(shown[-1])) if len(found) > limit else ""


def read_token(token: str, list_: str, *kinds: type) -> list[Any] | None:
    """The position, or None for the first page. InvalidArgument for a token of another list."""
    if not token:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or [type(part) for part in found] != [str, *kinds]:
        raise _foreign()
    if found[0] != list_ or not all(map(_is_position, found[1:])):
        raise _foreign()
    return found[1:]


def _is_position(part: str | int) -> bool:
    """Could one of ours be so? What a store cannot hold is not."""
    return part.isprintable() if isinstance(part, str) else 0 <= part < 2**63


def _foreign() -> InvalidArgument:
    return InvalidArgument(
        "page_token is not of this list: use the next_page_token of the same query",
        field="page_token",
    )
