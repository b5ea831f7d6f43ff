"""The leaves of a trained LightGBM ensemble as boxes of feature values, for explanations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from services.ml.explanation import MAX_PATH, Paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lightgbm


@dataclass(frozen=True, slots=True)
class FeatureInterval:
    """The values of one feature that follow a path: lower < value <= upper, or NaN."""

    lower: float = -np.inf
    upper: float = np.inf
    missing: bool = True
    cover: float = 1.0


Leaf = tuple[dict[int, FeatureInterval], float]


def paths(booster: lightgbm.Booster, trees: int) -> Paths:
    """Returns the boxes of all leaves of the first ``trees`` trees."""
    dumped = booster.dump_model(num_iteration=trees)["tree_info"]
    leaves = [leaf for tree in dumped for leaf in _leaves(tree["tree_structure"], {})]
    shape = (len(leaves), MAX_PATH)
    made = Paths(
        feature=np.full(shape, -1, np.int16),
        lower=np.full(shape, -np.inf),
        upper=np.full(shape, np.inf),
        missing=np.ones(shape, np.bool_),
        cover=np.ones(shape),
        value=np.array([value for _, value in leaves]),
    )
    for row, (boxes, _) in enumerate(leaves):
        for column, (feature, box) in enumerate(boxes.items()):
            made.feature[row, column] = feature
            made.lower[row, column] = box.lower
            made.upper[row, column] = box.upper
            made.missing[row, column] = box.missing
            made.cover[row, column] = box.cover
    return made


def _leaves(node: dict[str, Any], boxes: dict[int, FeatureInterval]) -> Iterator[Leaf]:
    if "leaf_value" in node:
        yield boxes, node["leaf_value"]
        return
    feature, threshold = node["split_feature"], node["threshold"]
    # A split without NaN in its training data treats NaN as zero.
    left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0
    box = boxes.get(feature, FeatureInterval())
    for child, goes_left in (("left_child", True), ("right_child", False)):
        narrowed = replace(
            box,
            upper=min(box.upper, threshold) if goes_left else box.upper,
            lower=box.lower if goes_left else max(box.lower, threshold),
            missing=box.missing and left is goes_left,
            cover=box.cover * _count(node[child]) / _count(node),
        )
        yield from _leaves(node[child], {**boxes, feature: narrowed})


def _count(node: dict[str, Any]) -> int:
    count: int = node["leaf_count"] if "leaf_value" in node else node["internal_count"]
    return count
