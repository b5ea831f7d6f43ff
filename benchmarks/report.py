"""docs/benchmarks.md and its plots: what was measured, when, where, against what.

The same results always give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.ratio import Ratio

    Results = Mapping[str, Mapping[str, Ratio]]

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PLOT = "benchmarks.md", "benchmarks.svg"
INTRODUCTION = """\
# Benchmarks

Written by `make bench`, from one run of all benchmarks on one commit. Each key is the **worst** of
its rounds; a round sums many bursts of at most a second, in which the two sides take turns. A
ratio is ours over the peer's. Rates and latencies depend on the machine; ratios do so far less.
"At most" marks a limit: less is better. A key that could not be measured has the reason in place
of a value.
"""
SHORT_RUN = """\
**This is a short run** (`ANYA_BENCH_SHORT=1`): it shows that the benchmarks work, and its figures
mean little.
"""


def write(
    results: Results, machine: Mapping[str, str], *, short: bool, folder: Path = DOCS
) -> None:
    """Writes the page and its plots into ``folder``."""
    _plot(results, folder / PLOT)
    curves = [
        (f"benchmarks-{key}.svg", key, ratio)
        for ratios in results.values()
        for key, ratio in ratios.items()
        if ratio.curve
    ]
    for name, _, ratio in curves:
        _plot_curve(ratio, folder / name)
    plots = [f"![{ratio.unit}]({name})" for name, _, ratio in curves]
    (folder / PAGE).write_text(_page(results, machine, plots, short=short), encoding="utf-8")


def _page(results: Results, machine: Mapping[str, str], plots: list[str], *, short: bool) -> str:
    keys = [
        (f"{name} `{key}`", ratio)
        for name, ratios in results.items()
        for key, ratio in ratios.items()
    ]
    lines = [INTRODUCTION]
    if short:
        lines += [SHORT_RUN]
    lines += ["| | |", "|---|---|", *(f"| {label} | {text} |" for label, text in machine.items())]
    lines += ["", "## Values", "", "| key | value | goal | what | peer |", "|---|---|---|---|---|"]
    lines += [
        f"| {key} | {_value(ratio)} | {goal(ratio)} | {ratio.unit} | {ratio.peer} |"
        for key, ratio in keys
    ]
    lines += ["", f"![value over goal, for every key]({PLOT})", ""]
    if plots:
        lines += ["## Cost as data grows", "", *plots, ""]
    lines += ["## Rounds and sides", "", "| key | rounds | configuration, clients and rates |"]
    lines += ["|---|---|---|"]
    lines += [
        f"| {key} | {' '.join(f'{value:.2f}' for value in ratio.rounds)} | {ratio.setup} |"
        for key, ratio in keys
        if ratio.rounds
    ]
    return "\n".join([*lines, ""])


def _value(ratio: Ratio) -> str:
    if ratio.value is None:
        return f"none: {ratio.reason}".replace("|", "\\|")
    return f"{ratio.value:.2f}" + ("" if ratio.holds else " (missed)")


def goal(ratio: Ratio) -> str:
    """Returns the goal as people read it."""
    if ratio.goal is None:
        return "unknown"
    return f"at most {ratio.goal:g}" if ratio.at_most else f"{ratio.goal:g}"


def _plot(results: Results, path: Path) -> None:
    """Draws how far each key is beyond its goal: 1 is the goal, more is better for every key."""
    measured = [
        (f"{name}: {key}", ratio.goal / ratio.value if ratio.at_most else ratio.value / ratio.goal)
        for name, ratios in results.items()
        for key, ratio in ratios.items()
        if ratio.value and ratio.goal
    ]
    figure = Figure(figsize=(7, 0.8 + 0.35 * len(measured)))
    axes = figure.subplots()
    axes.barh([label for label, _ in measured], [share for _, share in measured])
    axes.axvline(1, linestyle="--", color="black")
    axes.set_xlabel("value / goal, or limit / value")
    axes.invert_yaxis()
    _save(figure, path)


def _plot_curve(ratio: Ratio, path: Path) -> None:
    amounts, costs = zip(*ratio.curve, strict=True)
    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    axes.plot(amounts, costs, marker="o")
    if ratio.goal is not None:
        axes.axhline(ratio.goal, linestyle="--", color="black")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("runs stored")
    axes.set_ylabel("cost, relative")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    style = {"svg.hashsalt": "anya-mesh", "svg.fonttype": "none"}  # ids are random without a salt
    with matplotlib.rc_context(style):  # type: ignore[arg-type]
        figure.savefig(path, format="svg", metadata={"Date": None})
