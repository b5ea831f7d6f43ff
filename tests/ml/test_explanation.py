"""Explanations from tables, compared with LightGBM's ``pred_contrib``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightgbm
import numpy as np
import pytest

from services.ml.explanation import ARRAYS, MAX_PATH, Explainer, Paths
from services.ml.training.paths import paths

if TYPE_CHECKING:
    import numpy.typing as npt

COLUMNS = 9
EXACT = 1e-9


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=["complete rows", "rows with gaps"])
def booster(request: pytest.FixtureRequest) -> lightgbm.Booster:
    x = rows(3_000, gaps=request.param)
    y = (np.nan_to_num(x[:, 0] * x[:, 1] - x[:, 2]) > 0.2).astype(int)
    settings = {"objective": "binary", "num_leaves": 15, "max_depth": MAX_PATH, "verbose": -1}
    return lightgbm.train({**settings, "num_threads": 1}, lightgbm.Dataset(x, y), 25)


@pytest.fixture
def explainer(booster: lightgbm.Booster) -> Explainer:
    return Explainer(paths(booster, booster.num_trees()), COLUMNS)


def test_contributions_are_those_of_lightgbm(
    booster: lightgbm.Booster, explainer: Explainer
) -> None:
    # Also missing values, zeros, and values far outside of the training range.
    x = np.concatenate([rows(200, gaps=0.2, seed=1), np.zeros((1, COLUMNS), np.float32)])
    x[::7] *= 1e6

    explained = np.stack([explainer.explain(row) for row in x])

    expected = np.asarray(booster.predict(x, pred_contrib=True))
    assert np.abs(explained - expected[:, :-1]).max() < EXACT
    assert abs(explainer.baseline - expected[0, -1]) < EXACT


def test_baseline_and_contributions_add_up_to_the_margin(
    booster: lightgbm.Booster, explainer: Explainer
) -> None:
    x = rows(50, gaps=0.2, seed=2)

    sums = np.array([explainer.baseline + explainer.explain(row).sum() for row in x])

    assert np.abs(sums - booster.predict(x, raw_score=True)).max() < EXACT


def test_value_at_a_threshold_follows_the_trees_branch(
    booster: lightgbm.Booster, explainer: Explainer
) -> None:
    made = paths(booster, booster.num_trees())
    x = np.zeros((len(made.value), COLUMNS), np.float32)
    for row, (feature, upper) in enumerate(zip(made.feature, made.upper, strict=True)):
        used = (feature >= 0) & (upper < 1e30)
        x[row, feature[used]] = upper[used]

    explained = np.stack([explainer.explain(row) for row in x])

    assert (
        np.abs(explained - np.asarray(booster.predict(x, pred_contrib=True))[:, :-1]).max() < EXACT
    )


def test_arrays_of_wrong_shape_are_refused(booster: lightgbm.Booster) -> None:
    made = paths(booster, 3)
    arrays = {name: getattr(made, name) for name in ARRAYS}

    with pytest.raises(ValueError, match="arrays"):
        Paths.of({name: arrays[name] for name in ARRAYS[:-1]})
    with pytest.raises(ValueError, match="must have the shape"):
        Paths.of({**arrays, "lower": arrays["lower"][:-1]})
    with pytest.raises(ValueError, match="beyond"):
        Explainer(Paths.of(arrays), 1)


def rows(count: int, *, gaps: float, seed: int = 0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, COLUMNS)).astype(np.float32)
    x[rng.random(x.shape) < gaps] = np.nan
    return x
