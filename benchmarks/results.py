"""The results of a whole run so far, in a file that an interrupted run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.ratio import from_summary, summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.ratio import Ratio

FILE = Path(__file__).parents[1] / ".bench" / "results.json"


class ResumeError(Exception):
    """There is no run that can be completed; the text says why, and what to do."""


class WholeRun:
    """The results by benchmark and key, each on disk as soon as it is added."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self._path, self._document = path, document
        self.machine: Mapping[str, str] = document["machine"]

    @classmethod
    def open(
        cls, machine: Mapping[str, str], *, resume: bool, short: bool, path: Path = FILE
    ) -> Self:
        """Starts a run, or continues the one in the file.

        Raises ResumeError if the file is missing, or holds a run of another commit or length.
        """
        if not resume:
            run = cls(path, {"machine": dict(machine), "short": short, "results": {}})
            run._save()
            return run
        if not path.exists():
            raise ResumeError("no run was interrupted here: run without --resume")
        document = json.loads(path.read_text(encoding="utf-8"))
        theirs = document["machine"]["commit"], document["short"]
        if theirs != (machine["commit"], short):
            kind = "short run" if document["short"] else "run"
            raise ResumeError(
                f"the interrupted {kind} is of commit {theirs[0]}, this one of "
                f"{machine['commit']}: run without --resume"
            )
        return cls(path, document)

    def has(self, name: str, key: str) -> bool:
        """Returns if the key has a value. A key that has none is measured again."""
        found = self._document["results"].get(name, {}).get(key)
        return found is not None and found["value"] is not None

    def find(self, name: str, key: str) -> Ratio:
        return from_summary(self._document["results"][name][key])

    def add(self, name: str, key: str, ratio: Ratio) -> None:
        self._document["results"].setdefault(name, {})[key] = summary(ratio)
        self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._document, indent=1), encoding="utf-8")
        partial.replace(self._path)
