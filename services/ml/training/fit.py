"""Fits boosted trees on the training worlds, Platt scaling on others, and the threshold.

Platt scaling (Platt 1999) maps the margin of the trees to the probability: logit p = a margin + b.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression

from features.payment_risk import PAYMENT_RISK
from services.ml.training.dataset import ProposalSource

if TYPE_CHECKING:
    import numpy.typing as npt

    from services.ml.training.dataset import Rows

FALSE_POSITIVE_RATE = 0.01
SCORE_AT_THRESHOLD = 0.7  # risk_score of every version at its own threshold
MASKED_SHARE = 0.1  # of training rows, without the features that may be missing in production

# Swapped proposals make the model depend on the recipient. Their weights keep the share of fraud
# among all rows near that of the made payments.
WEIGHTS = {
    ProposalSource.MADE: 1.0,
    ProposalSource.SWAPPED_LICIT: 1.0,
    ProposalSource.SWAPPED_ILLICIT: 0.06,
}
TREES: dict[str, Any] = {
    "n_estimators": 100,
    "num_leaves": 15,
    "max_depth": 6,
    "learning_rate": 0.15,
    "min_child_samples": 200,
    "colsample_bytree": 0.7,
    "subsample": 0.7,
    "subsample_freq": 1,
    "reg_lambda": 1.0,
    "random_state": 0,
    "n_jobs": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
EARLY_STOPPING_ROUNDS = 20  # trees without progress on the validation worlds


@dataclass(frozen=True, slots=True)
class FittedModel:
    """Trees, and the constants that map their margin to ``p`` and ``risk_score``."""

    trees: lightgbm.LGBMClassifier
    platt_a: float
    platt_b: float
    threshold: float  # tau, on p

    @property
    def count(self) -> int:
        """The number of trees that early stopping kept."""
        return int(self.trees.best_iteration_)

    def margin(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return _margin(self.trees, x)

    def probability(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        p: npt.NDArray[np.float64] = _sigmoid(self.platt_a * self.margin(x) + self.platt_b)
        return p

    def score(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        shift = score_shift(self.threshold)
        return _sigmoid(self.platt_a * self.margin(x) + self.platt_b + shift)


def fit(train: Rows, validation: Rows, calibration: Rows) -> FittedModel:
    """Fits a model. Deterministic, because it uses one thread and fixed seeds.

    Early stopping, calibration and threshold use the made payments only.
    """
    trees = _trees(train, validation)
    margins = _margin(trees, calibration.made.x)
    platt = LogisticRegression(C=1e6).fit(margins[:, None], calibration.made.fraud)
    a, b = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    honest = validation.made.where(~validation.made.fraud)
    z = a * _margin(trees, honest.x) + b
    threshold = float(np.quantile(_sigmoid(z), 1 - FALSE_POSITIVE_RATE))
    return FittedModel(trees, a, b, threshold)


def score_shift(threshold: float) -> float:
    """Returns the shift from logit p to the logit of the score, which is 0.7 at the threshold."""
    return logit(SCORE_AT_THRESHOLD) - logit(threshold)


def logit(p: float) -> float:
    """Returns log(p / (1 - p))."""
    return log(p / (1 - p))


def _trees(train: Rows, validation: Rows) -> lightgbm.LGBMClassifier:
    monotone = [-1 if name == "pair_payments" else 0 for name in PAYMENT_RISK.names]
    trees = lightgbm.LGBMClassifier(**TREES, monotone_constraints=monotone)
    trees.fit(
        _masked(train.x),
        train.fraud,
        sample_weight=np.array([WEIGHTS[ProposalSource(source)] for source in train.source]),
        eval_X=validation.made.x,
        eval_y=validation.made.fraud,
        eval_metric="binary_logloss",
        callbacks=[lightgbm.early_stopping(EARLY_STOPPING_ROUNDS, verbose=False)],
    )
    return _in_float32(trees)


def _in_float32(trees: lightgbm.LGBMClassifier) -> lightgbm.LGBMClassifier:
    """Rounds every threshold of the trees down to float32, and returns the trees.

    LightGBM's thresholds are float64 values between two float32 values. ONNX stores float32, and
    rounding to the nearest could reach the upper value, whose rows would change sides.
    """
    text = re.sub(
        r"^threshold=(.*)$",
        lambda line: "threshold=" + " ".join(map(_round_down, line[1].split())),
        trees.booster_.model_to_string(),
        flags=re.MULTILINE,
    )
    # The sizes of the trees' texts have changed; without the line LightGBM reads tree after tree.
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)
    trees._Booster = lightgbm.Booster(model_str=text)
    return trees


def _round_down(threshold: str) -> str:
    exact = float(threshold)
    with np.errstate(over="ignore"):  # the threshold that separates only NaN is the largest float64
        rounded = np.float32(exact)
    if float(rounded) > exact:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return repr(float(rounded))


def _margin(trees: lightgbm.LGBMClassifier, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return np.asarray(trees.predict(x, raw_score=True), dtype=np.float64)


def _masked(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the rows, a share of them without the features that are not required."""
    masked = x.copy()
    rows = np.random.default_rng(0).random(len(x)) < MASKED_SHARE
    for column, definition in enumerate(PAYMENT_RISK.definitions):
        if not definition.required:
            masked[rows, column] = np.nan
    return masked


def _sigmoid(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1 / (1 + np.exp(-z))
