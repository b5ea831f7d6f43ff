"""The metrics of a version on unseen worlds, with bootstrap intervals over worlds."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from features.payment_risk import PAYMENT_RISK
from services.ml.simulation.parameters import draw
from services.ml.simulation.truth import LOOKALIKES, ActorKind
from services.ml.training.dataset import ProposalSource
from services.ml.training.fit import FALSE_POSITIVE_RATE, fit

if TYPE_CHECKING:
    import numpy.typing as npt

    from services.ml.training.dataset import Rows
    from services.ml.training.fit import FittedModel

    Floats = npt.NDArray[np.float64]

RESAMPLES = 200
BINS = 10
MIN_COLLECTOR_RECEIPTS = 5  # of a scam or mule that counts in the recipient swap
TAKEOVER = "takeover"
FRAUDS = (ActorKind.SCAM.value, ActorKind.MULE.value, ActorKind.RANSOM.value, TAKEOVER)


def measure(fitted: FittedModel, test: Rows) -> dict[str, Any]:
    """Returns all figures of the card; refusal rates are at the version's own threshold."""
    p = fitted.probability(test.x)
    made = test.source == ProposalSource.MADE
    return {
        "figures": _with_intervals(test, p, fitted.threshold),
        "refused_by_typology": _by_typology(test.where(made), p[made], fitted.threshold),
        "reliability": _reliability(test.where(made).fraud, p[made]),
        "by_reuse": _by_habit(test.where(made), p[made], fitted.threshold, "reuse"),
        "by_prior": _by_habit(test.where(made), p[made], fitted.threshold, "illicit_share"),
    }


def leave_one_out(train: Rows, validation: Rows, calibration: Rows, test: Rows) -> dict[str, float]:
    """Returns the refused share of each kind of fraud by a model trained without that kind."""
    recalls = {}
    for typology in FRAUDS:
        blind = fit(
            train.where(train.typology != typology),
            validation.where(validation.typology != typology),
            calibration,
        )
        unseen = test.where((test.typology == typology) & (test.source == ProposalSource.MADE))
        refused = blind.probability(unseen.x) >= blind.threshold
        recalls[typology] = float(refused.mean())
    return recalls


def figures(rows: Rows, p: Floats, threshold: float) -> dict[str, float]:
    """Returns the scalar figures of one sample of worlds; ``p`` [n] are the probabilities."""
    made = rows.source == ProposalSource.MADE
    fraud, refused = rows.fraud, p >= threshold
    seen = rows.column("recipient_seen") == 1
    lookalike = np.isin(rows.typology, [kind.value for kind in LOOKALIKES])
    collected = rows.column("recipient_receipts") >= MIN_COLLECTOR_RECEIPTS
    honest, robbed = made & ~fraud, made & fraud
    strict = np.quantile(p[honest], 1 - FALSE_POSITIVE_RATE)
    return {
        "auc": roc_auc_score(fraud[made], p[made]),
        "average_precision": average_precision_score(fraud[made], p[made]),
        "recall_at_fpr_1_percent": (p[robbed] >= strict).mean(),
        "brier": brier_score_loss(fraud[made], p[made]),
        "licit_refused": refused[honest].mean(),
        "fraud_refused": refused[robbed].mean(),
        "seen_auc": roc_auc_score(fraud[made & seen], p[made & seen]),
        "seen_average_precision": average_precision_score(fraud[made & seen], p[made & seen]),
        "seen_fraud_share": fraud[made & seen].mean(),
        "fresh_auc": roc_auc_score(fraud[made & ~seen], p[made & ~seen]),
        "fresh_average_precision": average_precision_score(fraud[made & ~seen], p[made & ~seen]),
        "fresh_fraud_refused": refused[robbed & ~seen].mean(),
        "lookalike_refused": refused[honest & lookalike].mean(),
        "swap_licit_refused": refused[rows.source == ProposalSource.SWAPPED_LICIT].mean(),
        "swap_illicit_refused": refused[
            (rows.source == ProposalSource.SWAPPED_ILLICIT) & collected
        ].mean(),
    }


def _with_intervals(rows: Rows, p: Floats, threshold: float) -> dict[str, dict[str, float]]:
    """Returns each figure with its 95 % interval, by a bootstrap over whole worlds."""
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(rows.world == world) for world in np.unique(rows.world)]
    samples: list[dict[str, float]] = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        samples.append(figures(rows.where(drawn), p[drawn], threshold))
    return {
        name: {
            "value": _round(value),
            "low": _round(np.quantile([sample[name] for sample in samples], 0.025)),
            "high": _round(np.quantile([sample[name] for sample in samples], 0.975)),
        }
        for name, value in figures(rows, p, threshold).items()
    }


def _by_typology(made: Rows, p: Floats, threshold: float) -> dict[str, dict[str, float]]:
    return {
        str(typology): {
            "payments": int((made.typology == typology).sum()),
            "refused": _round((p[made.typology == typology] >= threshold).mean()),
        }
        for typology in np.unique(made.typology)
    }


def _reliability(fraud: npt.NDArray[np.bool_], p: Floats) -> list[dict[str, float]]:
    """Returns predicted and observed share of fraud in bins of equal width in p."""
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        {
            "payments": int((place == bin).sum()),
            "predicted": _round(p[place == bin].mean()),
            "observed": _round(fraud[place == bin].mean()),
        }
        for bin in range(BINS)
        if (place == bin).any()
    ]


def _by_habit(made: Rows, p: Floats, threshold: float, habit: str) -> list[dict[str, float]]:
    """Returns figures of thirds of the worlds, ordered by one of their parameters."""
    value = {int(w): getattr(draw(Random(int(w))), habit) for w in np.unique(made.world)}  # noqa: S311
    ordered = sorted(value, key=lambda world: float(value[world]))
    thirds = [ordered[i * len(ordered) // 3 : (i + 1) * len(ordered) // 3] for i in range(3)]
    slices = []
    for worlds in thirds:
        inside = np.isin(made.world, worlds)
        fraud, refused = made.fraud[inside], p[inside] >= threshold
        slices.append(
            {
                "up_to": _round(value[worlds[-1]]),
                "average_precision": _round(average_precision_score(fraud, p[inside])),
                "licit_refused": _round(refused[~fraud].mean()),
                "fraud_refused": _round(refused[fraud].mean()),
            }
        )
    return slices


def ranges(x: npt.NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    """Returns the 0.1 % and 99.9 % quantiles of each feature, over the rows that have it."""
    low, high = np.nanquantile(x.astype(np.float64), (0.001, 0.999), axis=0)
    return {
        name: (float(np.float32(a)), float(np.float32(b)))
        for name, a, b in zip(PAYMENT_RISK.names, low, high, strict=True)
    }


def _round(value: Any) -> float:
    return round(float(value), 4)
