"""The last line of a benchmark is JSON for programs; unknown names are answered with the known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_last_line_is_one_json_document_of_ratios() -> None:
    ended = run("mesh", "--only", "chain_vs_bare", "--rounds", "1")

    assert ended.returncode == 0
    document = json.loads(ended.stdout.splitlines()[-1])
    assert document["benchmark"] == "mesh"
    ratio = document["ratios"]["chain_vs_bare"]
    assert 0 < ratio["value"] < 2
    assert ratio["goal"] == 0.55
    assert ratio["holds"] is (ratio["value"] >= ratio["goal"])
    assert ratio["peer"].startswith("grpcio ")


def test_a_goal_that_is_an_upper_limit_holds_below_it() -> None:
    ended = run("orchestrator", "--only", "condition_us", "--rounds", "1")

    ratio = json.loads(ended.stdout.splitlines()[-1])["ratios"]["condition_us"]
    assert ratio["value"] > 0
    assert ratio["holds"] is (ratio["value"] <= ratio["goal"])


def test_an_unknown_key_is_answered_with_the_known_keys() -> None:
    ended = run("mesh", "--only", "nothing")

    assert ended.returncode == 2
    assert "mesh has no key nothing; it has chain_vs_bare" in ended.stderr


def test_an_unknown_benchmark_is_refused() -> None:
    assert run("nothing").returncode == 2
