"""A model version in serving: its input, its outputs and its calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from services.ml.assessment import Prediction
from services.ml.tensor import ModelSignature

if TYPE_CHECKING:
    import numpy.typing as npt

    from features.feature import FeatureSet
    from services.ml.explanation import Explainer

    Floats = npt.NDArray[np.float32]

INPUT = "input"
OUTPUTS = ("probability", "risk_score")


class Scorer(Protocol):
    def run(self, rows: Floats) -> tuple[Floats, Floats]:
        """Returns probability and risk score of each row, both ``[n]`` and finite."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """One version, loaded for serving."""

    name: str
    version: str
    feature_set: FeatureSet
    threshold: float  # tau: the risk score is 0.7 or more if and only if p >= tau
    platt: tuple[float, float, float]  # a, b, shift: logit(score) = a * margin + b + shift
    low: Floats  # [features], 0.1 % quantile in training; -inf if training has no value
    high: Floats  # [features], 99.9 %
    scorer: Scorer
    explainer: Explainer

    @property
    def signature(self) -> ModelSignature:
        return ModelSignature(INPUT, len(self.feature_set.names))

    def predict(self, row: Floats) -> Prediction:
        """Returns the prediction for one row ``[features]``, with each feature's contribution.

        Baseline and contributions add up to the logit of the risk score.
        """
        probability, score = self.scorer.run(row[np.newaxis, :])
        a, b, shift = self.platt
        return Prediction(
            risk_score=float(score[0]),
            over_threshold=bool(probability[0] >= self.threshold),
            baseline=a * self.explainer.baseline + b + shift,
            contributions=a * self.explainer.explain(row),
            out_of_range=int(((row < self.low) | (row > self.high)).sum()),
        )
