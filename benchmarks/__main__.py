"""Run one benchmark: a table for people, then one line of JSON for programs."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.ratio import Measure, Ratio, summary

PARTS = {"__init__", "__main__", "against", "peer", "ratio", "report"}
NAMES = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - PARTS)


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.name is None:
        results = {name: _run(name, None, arguments.rounds) for name in NAMES}
        report.write(results)
        return 0
    known = _measures(arguments.name)
    if arguments.only is not None and arguments.only not in known:
        print(
            f"{arguments.name} has no key {arguments.only}; it has {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    _run(arguments.name, arguments.only, arguments.rounds)
    return 0


def _measures(name: str) -> dict[str, Measure]:
    measures: dict[str, Measure] = importlib.import_module(f"benchmarks.{name}").MEASURES
    return measures


def _run(name: str, only: str | None, rounds: int) -> dict[str, Ratio]:
    """Measures the keys, and prints the table and the line of JSON."""
    measures = _measures(name)
    ratios = {key: measures[key](rounds) for key in ([only] if only else measures)}
    _print_table(ratios)
    answers = {key: summary(ratio) for key, ratio in ratios.items()}
    print(json.dumps({"benchmark": name, "ratios": answers}))
    return ratios


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("name", nargs="?", choices=NAMES, help="all, and docs/benchmarks.md")
    parser.add_argument("--only", metavar="KEY")
    parser.add_argument("--rounds", type=_positive, default=7, metavar="N")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _print_table(ratios: dict[str, Ratio]) -> None:
    print(f"{'key':28} {'value':>8} {'goal':>6}  {'holds':5}  peer")
    for key, ratio in ratios.items():
        value = "-" if ratio.value is None else f"{ratio.value:.2f}"
        holds = "yes" if ratio.holds else "no"
        print(f"{key:28} {value:>8} {ratio.goal:>6}  {holds:5}  {ratio.peer} ({ratio.unit})")
        if ratio.reason:
            print(f"{'':28} {ratio.reason}")


if __name__ == "__main__":
    sys.exit(main())
