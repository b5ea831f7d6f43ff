"""The output of commands, on a page and as printed, with variable parts normalised."""

from __future__ import annotations

import io
import re
import shlex
import sqlite3
from contextlib import chdir, closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from cli.__main__ import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
COMMENT = re.compile(r"\s{2,}#.*$")

# Equal values have equal numbers: an id that a page shows twice must be printed twice.
NAMED = [
    ("id", re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")),
    ("hash", re.compile(r"\b[0-9a-f]{64}\b")),
    ("trace", re.compile(r"\b[0-9a-f]{32}\b")),
    ("prefix", re.compile(r"(?<=trace show )[0-9a-f]{8}\b")),
    ("address", re.compile(r"\bbcrt1[0-9a-z]+")),
    ("cid", re.compile(r"\bbafy[0-9a-z]+")),
    ("port", re.compile(r"127\.0\.0\.1:\d+")),
]
ALIKE = [
    (re.compile(r"(?<=risk score) +0\.\d+"), " 0.…"),
    (re.compile(r"\b\d+ ms\b"), "… ms"),
    (re.compile(r"(ready|starting) +(\d+ )?+ *\d+ s"), r"\1 … s"),  # of a process: its pid and age
    (re.compile(r"  +\d+\.\d( .*)?$"), ""),  # of a span: its length and its bar
    (re.compile(r"(?<= ms) *$"), ""),
    (re.compile(r"^running, \w+:"), "running:"),  # what bitcoin says, if it was asked by then
    (re.compile(r"(?<=\S) +"), " "),
]


@dataclass(frozen=True, slots=True)
class Printed:
    """A command and its output lines."""

    command: str
    lines: tuple[str, ...]

    @classmethod
    def by(cls, command: str, text: str) -> Printed:
        return cls(command, tuple(line.rstrip() for line in text.splitlines() if line.strip()))


def on_page(text: str) -> list[Printed]:
    """Returns the commands and outputs of the page's console blocks, without comments."""
    shown: list[Printed] = []
    for block in BLOCK.findall(text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            shown.append(Printed.by(COMMENT.sub("", command), printed))
    return shown


def anya(*arguments: str, home: Path, folder: Path) -> Printed:
    """Runs a command in ``folder`` and in this process, which is fast, and returns its output."""
    output = io.StringIO()
    with chdir(folder), redirect_stdout(output), redirect_stderr(output):
        run([*arguments, "--home", str(home)])
    return Printed.by(shlex.join(["anya", *arguments]), output.getvalue())


def sqlite(file: str, query: str, *, home: Path) -> Printed:
    """Returns the output of the SQLite shell for a file of the home."""
    with closing(sqlite3.connect(f"file:{home / file}?mode=ro", uri=True)) as database:
        rows = database.execute(query).fetchall()
    lines = tuple("|".join(map(str, row)) for row in rows)
    return Printed(shlex.join(["sqlite3", f".anya/{file}", query]), lines)


def normalised(all_printed: Iterable[Printed]) -> list[Printed]:
    """Replaces ids by numbered names in order of appearance, and times and amounts by "…"."""
    names: dict[str, str] = {}

    def line(text: str) -> str:
        for kind, pattern in NAMED:
            for found in pattern.findall(text):
                text = text.replace(found, names.setdefault(found, f"<{kind} {len(names)}>"))
        for pattern, instead in ALIKE:
            text = pattern.sub(instead, text)
        return text.rstrip()

    return [
        Printed(
            line(shlex.join(shlex.split(printed.command))),
            tuple(key for key, _ in groupby(map(line, printed.lines))),
        )
        for printed in all_printed
    ]
