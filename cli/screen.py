"""Output: results on stdout, progress on a terminal's stderr, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def emit(document: Any) -> None:
    """Writes one JSON document as one line on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@cache
def results() -> Console:
    """Returns the console on stdout. It wraps lines on a terminal only, and honours NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=_width(sys.stdout))


def show(line: str) -> None:
    """Prints one line of the result without markup: brackets in a name stay as they are."""
    results().print(line, markup=False)


@cache
def progress() -> Console:
    """Returns the console on stderr, which is silent unless stderr is a terminal."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=not sys.stderr.isatty())


def say(line: str) -> None:
    """Prints one line of progress without markup."""
    progress().print(line, style="dim", markup=False)


def _width(stream: Any) -> int | None:
    """Returns the terminal's width, or a wide one elsewhere, so that logs keep whole ids."""
    return None if stream.isatty() or "COLUMNS" in os.environ else 140
