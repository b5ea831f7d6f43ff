"""Run one benchmark: a table for people, then one line of JSON for programs."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.ratio import Measure, Ratio, summary

PARTS = {"__init__", "__main__", "peer", "ratio"}
NAMES = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - PARTS)


def main() -> int:
    arguments = _parser().parse_args()
    measures: dict[str, Measure] = importlib.import_module(f"benchmarks.{arguments.name}").MEASURES
    keys = [arguments.only] if arguments.only else list(measures)
    if unknown := set(keys) - measures.keys():
        known = ", ".join(measures)
        print(f"{arguments.name} has no key {unknown.pop()}; it has {known}", file=sys.stderr)
        return 2
    ratios = {key: measures[key](arguments.rounds) for key in keys}
    _print_table(ratios)
    answers = {key: summary(ratio) for key, ratio in ratios.items()}
    print(json.dumps({"benchmark": arguments.name, "ratios": answers}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("name", choices=NAMES)
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
