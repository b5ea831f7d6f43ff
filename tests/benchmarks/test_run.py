"""The last line of a benchmark is JSON for programs; unknown names are answered with the known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    short = {**os.environ, "ANYA_BENCH_SHORT": "1"}
    return subprocess.run(command, cwd=ROOT, env=short, capture_output=True, text=True, check=False)


def test_the_last_line_is_one_json_document_of_ratios() -> None:
    ended = run("mesh", "--only", "chain_vs_bare", "--rounds", "1")

    assert ended.returncode == 0
    document = json.loads(ended.stdout.splitlines()[-1])
    assert document["benchmark"] == "mesh"
    ratio = document["ratios"]["chain_vs_bare"]
    assert 0 < ratio["value"] < 2
    assert ratio["value"] == min(ratio["rounds"])
    assert ratio["holds"] is (ratio["value"] >= ratio["goal"])
    assert ratio["peer"].startswith("grpcio ")


def test_json_is_all_of_stdout_if_it_is_asked_for_and_progress_is_on_stderr() -> None:
    ended = run("orchestrator", "--only", "condition_us", "--json")

    (line,) = ended.stdout.splitlines()
    assert "condition_us" in json.loads(line)["ratios"]
    assert "condition_us is " in ended.stderr


@pytest.mark.parametrize("key", ["chain_uvloop_vs_asyncio", "orchestrator_door_uvloop_vs_asyncio"])
def test_both_event_loops_are_compared(key: str) -> None:
    ended = run("event_loop", "--only", key, "--json")

    ratio = json.loads(ended.stdout)["ratios"][key]
    assert ratio["value"] > 0
    assert "ms of CPU each" in ratio["setup"]


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
