"""Compares two checkouts: the same measurement in each, in turns, on one machine.

``python -m benchmarks.against OTHER orchestrator`` measures this checkout over that in the folder
``OTHER``, which needs its own ``.venv`` (``make bench`` makes it). Engines run side by side and
take turns burst by burst; other keys take turns run by run. A ratio above 1 is better here than
there, whatever the key's unit. The table shows the median and the worst of the rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import peer
from benchmarks.orchestrator import STORES
from benchmarks.rounds import Plan, compare
from benchmarks.runs import collector, engine
from benchmarks.runs.engine import Latency, Throughput, WholeBursts

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Compared:
    """An engine's runs per second, or the inverse of its median latency."""

    store: str
    options: tuple[str, ...]
    concurrency: int
    side: type[Throughput] = WholeBursts


SIGNAL = ("--door", "grpc", "--ask", "signal")
ENGINES = {
    "sqlite_c16": Compared("sqlite", ("--door", "direct"), 16),
    "sqlite_c64": Compared("sqlite", ("--door", "direct"), 64),
    "sqlite_grpc_steps_c16": Compared("sqlite", ("--steps", "grpc"), 16),
    "postgres_grpc_c16": Compared("postgres", ("--door", "grpc"), 16),
    "postgres_c64": Compared("postgres", ("--door", "direct"), 64),
    "signal_sqlite": Compared("sqlite", SIGNAL, 1, Latency),
    "signal_postgres": Compared("postgres", SIGNAL, 1, Latency),
    "signal_postgres_2": Compared("postgres", (*SIGNAL, "--replicas", "2"), 1, Latency),
}
# Keys of `python -m benchmarks NAME` that need no peer's engine, and how many rounds a turn has. It
# is one where checkouts make rounds of other lengths: the worst of several favours longer ones.
KEYS = {
    "orchestrator": {
        "group_commit_gain": 1,
        "journal_vs_memory": 1,
        "condition_us": 3,
        "payments_per_s_c16": 2,
        "payment_p99_ms": 2,
        "failover_s": 1,
        "cost_1m_vs_1k_runs": 1,
    },
    "mesh": {"chain_vs_bare": 1, "chain_vs_bare_c1": 1},
}
LESS_IS_BETTER = {"condition_us", "payment_p99_ms", "failover_s", "cost_1m_vs_1k_runs"}


def main() -> int:
    arguments = _parser().parse_args()
    other = Path(arguments.other).resolve()
    rows: dict[str, list[float]] = {}
    engines = ENGINES if arguments.name == "orchestrator" else {}
    for key, compared in engines.items():
        if arguments.only in (None, key):
            rows[key] = _compare_engines(other, compared, arguments.rounds)
            _print_row(key, rows[key])
    for key, turns in KEYS[arguments.name].items():
        if arguments.only in (None, key):
            rows[key] = _compare_keys(other, arguments.name, key, turns, arguments.rounds)
            _print_row(key, rows[key])
    print(json.dumps({"against": str(other.name), "ratios": rows}))
    return 0


def _compare_engines(other: Path, compared: Compared, rounds: int) -> list[float]:
    with ExitStack() as stack:
        new_store = stack.enter_context(STORES[compared.store]())
        spans = stack.enter_context(collector.running())
        sides = []
        for name, root in (("ours", peer.ROOT), ("others", other)):
            options = (*compared.options, "--store", new_store(name), "--collector", spans)
            python = str(root / ".venv" / "bin" / "python")
            side = stack.enter_context(engine.ours(*options, python=python, root=root))
            sides.append(compared.side(side, compared.concurrency))
        return compare(sides[0], sides[1], Plan(rounds))


def _compare_keys(other: Path, name: str, key: str, turns: int, rounds: int) -> list[float]:
    ratios = []
    for _ in range(rounds):
        theirs = _measure(other, name, key, turns)
        ours = _measure(peer.ROOT, name, key, turns)
        ratios.append(theirs / ours if key in LESS_IS_BETTER else ours / theirs)
    return ratios


def _measure(root: Path, name: str, key: str, turns: int) -> float:
    """Returns the value of a key, as the checkout's own benchmark prints it."""
    python = str(root / ".venv" / "bin" / "python")
    command = [python, "-m", "benchmarks", name, "--only", key, "--rounds", str(turns)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)  # noqa: S603  (ours)
    return float(json.loads(done.stdout.splitlines()[-1])["ratios"][key]["value"])


def _print_row(key: str, ratios: Sequence[float]) -> None:
    each = " ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"{key:24} median {median(ratios):.3f}  worst {min(ratios):.3f}  ({each})", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against")
    parser.add_argument("other", help="the folder of the other checkout")
    parser.add_argument("name", choices=KEYS)
    parser.add_argument("--only", metavar="KEY")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
