"""Statements about several rows at once, in the words of both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_PARAMETERS = 128  # in one statement


def in_list(values: Sequence[str]) -> Iterator[tuple[str, list[str | None]]]:
    """What to put behind ``IN``, and its arguments, for so many values that fit.

    Shorter lists are filled up with NULL, which equals nothing: few statements are compiled.
    """
    for first in range(0, len(values), MAX_PARAMETERS):
        some: list[str | None] = list(values[first : first + MAX_PARAMETERS])
        size = 1 << (len(some) - 1).bit_length()
        yield f"({', '.join('?' * size)})", some + [None] * (size - len(some))
