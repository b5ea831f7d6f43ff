"""Page sizes and page tokens of list methods (AIP-158).

A token holds the position of the last entry of a page and the query of the list, so that a token
of another query is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def page_size(requested: int, *, default: int, maximum: int) -> int:
    """Returns the number of entries of a page; ``default`` if ``requested`` is 0.

    Raises InvalidArgument if it is negative.
    """
    if requested < 0:
        raise InvalidArgument("page_size must not be negative", field="page_size")
    return min(requested or default, maximum)


def make_token(query: str, *position: str | int) -> str:
    """Returns the token of the page after ``position`` in the list that ``query`` identifies.

    Integers of a position are from 0 to 2**63 - 1, strings are printable.
    """
    return base64.urlsafe_b64encode(json.dumps([_digest(query), *position]).encode()).decode()


def read_token(token: str, query: str, *kinds: type) -> list[Any] | None:
    """Returns the position in ``token``, or None if it is empty and asks for the first page.

    ``kinds`` are the types of the position's parts. Raises InvalidArgument if the token was not
    made for ``query``.
    """
    if not token:
        return None
    try:
        found = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or [type(part) for part in found] != [str, *kinds]:
        raise _foreign()
    if found[0] != _digest(query) or not all(map(_is_position, found[1:])):
        raise _foreign()
    return found[1:]


def cut(
    found: Sequence[T], limit: int, query: str, position: Callable[[T], str | int]
) -> tuple[Sequence[T], str]:
    """Cuts ``found``, which was read with a limit of ``limit + 1``, to one page.

    Returns the page and the token of the next one, which is empty if there is none.
    """
    page = found[:limit]
    return page, make_token(query, position(page[-1])) if len(found) > limit else ""


def _digest(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:16]


def _is_position(part: str | int) -> bool:
    """Checks that a store can hold the part: a forged token may name any string or integer."""
    return part.isprintable() if isinstance(part, str) else 0 <= part < 2**63


def _foreign() -> InvalidArgument:
    return InvalidArgument(
        "page_token is not of this list: use the next_page_token of the same query",
        field="page_token",
    )
