"""Where output goes: results on stdout, progress on a terminal's stderr, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def emit(document: Any) -> None:
    """Write one JSON document as one line on stdout."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@cache
def results() -> Console:
    """The console on stdout. It wraps nothing where nobody looks, and honours NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=_width(sys.stdout))


def show(line: str) -> None:
    """One line of the answer, as it is: brackets in a name are no markup."""
    results().print(line, markup=False)


@cache
def progress() -> Console:
    """The console on stderr, mute unless a person is watching."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=not sys.stderr.isatty())


def say(line: str) -> None:
    """One line of progress, as it is."""
    progress().print(line, style="dim", markup=False)


def _width(stream: Any) -> int | None:
    """What the terminal has; a generous line elsewhere, so that logs keep ids whole."""
    return None if stream.isatty() or "COLUMNS" in os.environ else 140
