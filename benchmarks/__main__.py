"""Runs benchmarks: a table for people, then one line of JSON for programs; progress on stderr.

Without NAME, all are run and docs/benchmarks.md is written. The page is always one whole run of one
commit: NAME and --only print, and leave it as it is. What a whole run has measured so far is in
.bench/results.json; --resume measures the rest of an interrupted run of the same commit.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
import time
from pathlib import Path

from benchmarks import machine, peer, report
from benchmarks.ratio import Measure, Ratio, summary
from benchmarks.results import ResumeError, WholeRun
from benchmarks.rounds import SHORT

PARTS = {"__init__", "__main__", "against", "machine", "peer", "ratio", "report", "results"}
PARTS |= {"rounds"}
NAMES = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - PARTS)

log = logging.getLogger("benchmarks")


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    if arguments.name is None:
        return _run_all(arguments)
    known = _measures(arguments.name)
    if arguments.only is not None and arguments.only not in known:
        print(
            f"{arguments.name} has no key {arguments.only}; it has {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    keys = [arguments.only] if arguments.only else list(known)
    ratios = {key: measure(key, known[key], arguments.rounds) for key in keys}
    _print({arguments.name: ratios}, table=not arguments.json)
    return _status(ratios)


def _run_all(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    try:
        run = WholeRun.open(machine.describe(), resume=arguments.resume, short=SHORT)
    except ResumeError as error:
        print(error, file=sys.stderr)
        return 2
    measures = [(name, key, one) for name in NAMES for key, one in _measures(name).items()]
    for number, (name, key, one) in enumerate(measures, 1):
        if not run.has(name, key):
            log.info("%d of %d: %s %s", number, len(measures), name, key)
            run.add(name, key, measure(key, one, arguments.rounds))
    log.info("%.0f minutes", (time.monotonic() - started) / 60)
    results = {name: {key: run.find(name, key) for key in _measures(name)} for name in NAMES}
    report.write(results, run.machine, short=SHORT)
    _print(results, table=not arguments.json)
    return max(_status(ratios) for ratios in results.values())


def _measures(name: str) -> dict[str, Measure]:
    measures: dict[str, Measure] = importlib.import_module(f"benchmarks.{name}").MEASURES
    return measures


def measure(key: str, one: Measure, rounds: int) -> Ratio:
    """Returns the result of one key. What failed is a result with its reason."""
    started = time.monotonic()
    try:
        ratio = one(rounds)
    except peer.PeerMissing as missing:
        ratio = Ratio(value=None, goal=None, unit="", peer="", reason=str(missing))
    except Exception as error:
        log.exception("%s failed", key)
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ratio = Ratio(value=None, goal=None, unit="", peer="", reason=reason)
    value = f"none: {ratio.reason}" if ratio.value is None else f"{ratio.value:.3f}"
    log.info("  %s is %s, in %.0f s", key, value, time.monotonic() - started)
    return ratio


def _status(ratios: dict[str, Ratio]) -> int:
    """Returns 1 if a measurement failed. A missed goal or a missing peer is a result."""
    return int(any(ratio.value is None and ratio.goal is None for ratio in ratios.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=NAMES, help="all, and docs/benchmarks.md")
    parser.add_argument("--only", metavar="KEY")
    parser.add_argument("--rounds", type=_positive, default=1 if SHORT else 3, metavar="N")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    parser.add_argument("--resume", action="store_true", help="complete an interrupted whole run")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def _print(results: dict[str, dict[str, Ratio]], *, table: bool) -> None:
    """Prints a table and a line of JSON for each benchmark."""
    for name, ratios in results.items():
        if table:
            _print_table(ratios)
        answers = {key: summary(ratio) for key, ratio in ratios.items()}
        print(json.dumps({"benchmark": name, "ratios": answers}))


def _print_table(ratios: dict[str, Ratio]) -> None:
    print(f"{'key':32} {'value':>8} {'goal':>12}  {'holds':5}  peer")
    for key, ratio in ratios.items():
        value = "-" if ratio.value is None else f"{ratio.value:.2f}"
        holds = "yes" if ratio.holds else "no"
        named = f"{ratio.peer} ({ratio.unit})" if ratio.peer else ""
        print(f"{key:32} {value:>8} {report.goal(ratio):>12}  {holds:5}  {named}")
        for note in (ratio.reason, ratio.setup):
            if note:
                print(f"{'':32} {note}")


if __name__ == "__main__":
    sys.exit(main())
