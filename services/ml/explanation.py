"""Exact TreeSHAP in numpy, for models small enough to be tabulated.

At most ``MAX_PATH`` features lead to a leaf, so a row follows the path to a leaf in one of at most
2^MAX_PATH ways (a bit for each feature). The Shapley values of every leaf for each way are computed
once; explaining a row is then a comparison, a gather and a sum. The method is path-dependent
TreeSHAP (Lundberg et al. 2018, arXiv:1802.03888, algorithm 2) in the log-odds of the trees. The
values equal LightGBM's ``pred_contrib``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

MAX_PATH = 6
ARRAYS = ("feature", "lower", "upper", "missing", "cover", "value")


@dataclass(frozen=True, slots=True)
class Paths:
    """Every leaf of an ensemble as the box of feature values that reaches it.

    Arrays are [leaves, MAX_PATH]; a column is one distinct feature of the path. An unused column
    has feature -1, accepts every value and has cover 1.
    """

    feature: npt.NDArray[np.int16]  # [leaves, MAX_PATH]
    lower: Floats  # exclusive
    upper: Floats  # inclusive
    missing: npt.NDArray[np.bool_]  # true if NaN follows the path
    cover: Floats  # share of the training rows at these splits that followed the path
    value: Floats  # [leaves] log-odds

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Paths:
        """Returns the paths of stored arrays. Raises ValueError if their shapes do not fit."""
        if set(arrays) != set(ARRAYS):
            raise ValueError(f"the paths must be the arrays {', '.join(ARRAYS)}")
        leaves = len(arrays["value"])
        if any(arrays[name].shape != (leaves, MAX_PATH) for name in ARRAYS[:-1]):
            raise ValueError(f"the arrays of the paths must have the shape [{leaves}, {MAX_PATH}]")
        return cls(
            arrays["feature"].astype(np.int16),
            arrays["lower"].astype(np.float64),
            arrays["upper"].astype(np.float64),
            arrays["missing"].astype(np.bool_),
            arrays["cover"].astype(np.float64),
            arrays["value"].astype(np.float64),
        )


class Explainer:
    """Explains the margin of single rows of ``columns`` features."""

    def __init__(self, paths: Paths, columns: int) -> None:
        if paths.feature.max(initial=-1) >= columns:
            raise ValueError(f"the paths have features beyond the {columns} columns of the model")
        self._paths = paths
        self._columns = columns
        self._leaves = np.arange(len(paths.value))
        self._bits = 1 << np.arange(MAX_PATH)
        self._places = np.where(paths.feature < 0, columns, paths.feature).astype(np.intp)
        self._table = _table(paths)
        self.baseline = float((paths.value * paths.cover.prod(axis=1)).sum())

    def explain(self, x: npt.NDArray[np.float32]) -> Floats:
        """Returns the contributions [columns], in log-odds, to the margin of one row [columns].

        Baseline and contributions add up to the margin.
        """
        paths = self._paths
        values = np.append(x.astype(np.float64), 0.0)[self._places]
        inside = (values > paths.lower) & (values <= paths.upper)
        followed = np.where(np.isnan(values), paths.missing, inside)
        each = self._table[self._leaves, followed @ self._bits]
        sums = np.bincount(self._places.ravel(), each.ravel(), minlength=self._columns + 1)
        return sums[: self._columns].astype(np.float64)


def _table(paths: Paths) -> Floats:
    """Returns each column's Shapley value for each way: [leaves, 2^MAX_PATH, MAX_PATH].

    An unused column has o = z = 1 (in the paper's terms), so it contributes zero and does not
    change the values of the other columns.
    """
    leaves = len(paths.value)
    table = np.zeros((leaves, 1 << MAX_PATH, MAX_PATH))
    for column in range(MAX_PATH):
        others = [other for other in range(MAX_PATH) if other != column]
        for present, weight in _coalitions(others):
            bits = sum(1 << other for other in present)
            absent = [other for other in others if other not in present]
            rest = weight * paths.value * paths.cover[:, absent].prod(axis=1)
            for mask in range(1 << MAX_PATH):
                if mask & bits == bits:  # one feature off the path makes the product zero
                    followed = float(bool(mask & 1 << column))
                    table[:, mask, column] += rest * (followed - paths.cover[:, column])
    return table


def _coalitions(others: list[int]) -> Iterator[tuple[tuple[int, ...], float]]:
    """Yields every subset of the other features with its Shapley weight |S|! (n-|S|-1)! / n!."""
    players = len(others) + 1
    for size in range(players):
        weight = factorial(size) * factorial(players - size - 1) / factorial(players)
        for present in combinations(others, size):
            yield present, weight
