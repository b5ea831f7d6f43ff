"""The page of a whole run, the file of an interrupted one, and the words about a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks import machine, report
from benchmarks.ratio import Ratio
from benchmarks.results import ResumeError, WholeRun

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = {"commit": "abc1234", "Python": "3.12.1, GCC 13, with PGO, with LTO"}
MISSED = Ratio(
    value=9.876543,
    goal=12,
    unit="runs per second",
    peer="dbos 3.4.0",
    rounds=(9.876543, 10.5),
    setup="ours 900 runs/s",
)
CURVE = Ratio(
    value=1.05,
    goal=1.2,
    at_most=True,
    unit="time of a run",
    peer="none",
    rounds=(1.05,),
    curve=((1000, 1.0), (10_000, 1.02), (100_000, 1.05)),
)
MISSING = Ratio(value=None, goal=3, unit="runs", peer="restate 1", reason="npm is not installed")
RESULTS = {"orchestrator": {"vs_dbos": MISSED, "vs_restate": MISSING, "cost": CURVE}}


def test_page_has_a_row_for_each_key(tmp_path: Path) -> None:
    report.write(RESULTS, MACHINE, short=False, folder=tmp_path)

    page = (tmp_path / "benchmarks.md").read_text()
    assert "| orchestrator `vs_dbos` | 9.88 (missed) | 12 | runs per second | dbos 3.4.0 |" in page
    assert (
        "| orchestrator `vs_restate` | none: npm is not installed | 3 | runs | restate 1 |" in page
    )
    assert "| orchestrator `cost` | 1.05 | at most 1.2 | time of a run | none |" in page
    assert "| orchestrator `vs_dbos` | 9.88 10.50 | ours 900 runs/s |" in page
    assert "| Python | 3.12.1, GCC 13, with PGO, with LTO |" in page
    assert "short run" not in page
    assert "(benchmarks-cost.svg)" in page


def test_page_of_a_short_run_says_so(tmp_path: Path) -> None:
    report.write(RESULTS, MACHINE, short=True, folder=tmp_path)

    assert "**This is a short run**" in (tmp_path / "benchmarks.md").read_text()


def test_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        report.write(RESULTS, MACHINE, short=False, folder=folder)

    one, other = ({file.name: file.read_bytes() for file in it.iterdir()} for it in folders)
    assert one == other
    assert one.keys() == {"benchmarks.md", "benchmarks.svg", "benchmarks-cost.svg"}


def test_interrupted_run_keeps_what_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = WholeRun.open(MACHINE, resume=False, short=False, path=path)
    for key, ratio in RESULTS["orchestrator"].items():
        first.add("orchestrator", key, ratio)

    resumed = WholeRun.open({**MACHINE, "load": "9"}, resume=True, short=False, path=path)

    assert resumed.machine == MACHINE
    assert resumed.find("orchestrator", "cost") == CURVE
    assert resumed.has("orchestrator", "cost")
    assert not resumed.has("orchestrator", "vs_restate")  # measured again, as its peer may be there
    assert not resumed.has("orchestrator", "never_measured")


@pytest.mark.parametrize(("commit", "short"), [("def5678", False), ("abc1234", True)])
def test_run_of_another_commit_or_length_is_not_resumed(
    tmp_path: Path, commit: str, short: bool
) -> None:
    path = tmp_path / "results.json"
    WholeRun.open(MACHINE, resume=False, short=False, path=path)

    with pytest.raises(ResumeError, match="run without --resume"):
        WholeRun.open({**MACHINE, "commit": commit}, resume=True, short=short, path=path)


def test_without_an_interrupted_run_there_is_none_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no run was interrupted"):
        WholeRun.open(MACHINE, resume=True, short=False, path=tmp_path / "results.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'--enable-optimizations' '--with-lto'", "with PGO, with LTO"),
        ("'--enable-shared'", "without PGO, without LTO"),
        ("'--enable-optimizations' '--with-lto=no'", "with PGO, without LTO"),
        (None, "without PGO, without LTO"),
    ],
)
def test_python_build_is_named(arguments: str | None, words: str) -> None:
    assert machine.optimizations({"CONFIG_ARGS": arguments}) == words


def test_machine_is_described_in_full() -> None:
    found = machine.describe()

    assert "cores" in found["processor"]
    assert "PGO" in found["Python"]
    assert len(found["load at the start"].split()) == 3
