"""Statements about several rows, in syntax that both databases have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_PARAMETERS = 128  # in one statement


def in_list(values: Sequence[str]) -> Iterator[tuple[str, list[str | None]]]:
    """Yields the list for an ``IN``, and its arguments, for MAX_PARAMETERS values at a time.

    Pads lists to a power of two with NULL, which equals no value, so that few statements are
    compiled.
    """
    for first in range(0, len(values), MAX_PARAMETERS):
        batch: list[str | None] = list(values[first : first + MAX_PARAMETERS])
        size = 1 << (len(batch) - 1).bit_length()
        yield f"({', '.join('?' * size)})", batch + [None] * (size - len(batch))
