"""docs/benchmarks.md: what was measured, when, where, against what."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # the backend must be chosen before

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.ratio import Ratio

DOCS = Path(__file__).parents[1] / "docs"
LIBRARIES = ("grpcio", "protobuf", "onnxruntime", "py-bitcoinkernel", "cryptography")


def write(results: Mapping[str, Mapping[str, Ratio]]) -> None:
    """Writes docs/benchmarks.md and its plots."""
    _plot(results)
    (DOCS / "benchmarks.md").write_text(_page(results))


def _page(results: Mapping[str, Mapping[str, Ratio]]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    rows = [
        f"| {name} | `{key}` | {_value(ratio)} | {ratio.goal:g} | {ratio.unit} | {ratio.peer} |"
        for name, ratios in results.items()
        for key, ratio in ratios.items()
    ]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "Written by `make bench`. Rounds alternate with the peer's, and the worst one counts:",
            "trust the ratios, not the machine.",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores,",
            f"Python {platform.python_version()}, {versions}.",
            "",
            "| benchmark | key | value | goal | what | peer |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "![value over goal, for every key](benchmarks.svg)",
            "",
        ]
    )


def _value(ratio: Ratio) -> str:
    if ratio.value is None:
        return f"none: {ratio.reason}"
    return f"{ratio.value:.2f}" + ("" if ratio.holds else " (missed)")


def _plot(results: Mapping[str, Mapping[str, Ratio]]) -> None:
    measured = [
        (f"{name}: {key}", ratio.value / ratio.goal)
        for name, ratios in results.items()
        for key, ratio in ratios.items()
        if ratio.value is not None
    ]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.35 * len(measured)))
    axes.barh([label for label, _ in measured], [share for _, share in measured])
    axes.axvline(1, linestyle="--", color="black")
    axes.set_xlabel("value / goal")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(DOCS / "benchmarks.svg", metadata={"Date": None})
