"""The files of a version: model, paths for explanations, card and manifest."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from importlib.metadata import version as library_version
from typing import TYPE_CHECKING, Any

import numpy as np

from features.payment_risk import PAYMENT_RISK
from services.ml.explanation import ARRAYS
from services.ml.manifest import CARD, GRAPH, MANIFEST, PATHS, digest, row_values
from services.ml.training.card import card
from services.ml.training.export import PROBABILITY, SCORE, export, parity, run
from services.ml.training.fit import SCORE_AT_THRESHOLD, score_shift
from services.ml.training.metrics import ranges
from services.ml.training.paths import paths

if TYPE_CHECKING:
    import numpy.typing as npt

    from services.ml.training.dataset import Rows
    from services.ml.training.fit import FittedModel

NAME = "payment-risk"
GOLDEN_ROWS = 24
LIBRARIES = ("lightgbm", "numpy", "onnx", "onnxmltools", "scikit-learn", "skl2onnx")


@dataclass(frozen=True, slots=True)
class Splits:
    """The seeds of the worlds of each split; no seed is in two splits."""

    train: range = range(1_000, 1_040)
    validation: range = range(2_000, 2_010)
    calibration: range = range(3_000, 3_010)
    test: range = range(5_000, 5_020)

    def bounds(self) -> dict[str, list[int]]:
        """Returns the first and the last seed of each split."""
        return {
            split: [seeds.start, seeds.stop - 1]
            for split in ("train", "validation", "calibration", "test")
            for seeds in [getattr(self, split)]
        }


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts of a version's manifest and card that do not follow from the fit."""

    splits: Splits
    metrics: dict[str, Any]
    code_sha256: str  # of the sources that make the version


def assemble(
    version: str, fit: FittedModel, train: Rows, held_out: Rows, evidence: Evidence
) -> dict[str, bytes]:
    """Makes every file of a version, by name.

    Raises ParityError if the exported graph and LightGBM differ on the ``held_out`` rows.
    """
    graph = export(fit, len(PAYMENT_RISK.names))
    worst = parity(fit, graph, held_out.x)
    manifest: dict[str, Any] = {
        "name": NAME,
        "version": version,
        "signature": {
            "input": {"name": "input", "datatype": "FP32", "shape": [-1, train.x.shape[1]]},
            "outputs": [
                {"name": name, "datatype": "FP32", "shape": [-1, 1]}
                for name in (PROBABILITY, SCORE)
            ],
        },
        "feature_set": {
            "name": PAYMENT_RISK.name,
            "hash": PAYMENT_RISK.hash,
            "features": PAYMENT_RISK.names,
        },
        "ranges": ranges(train.x),
        "calibration": _calibration(fit, train),
        "trees": {"count": fit.count, "parity": worst},
        "worlds": evidence.splits.bounds(),
        "golden": golden(graph, held_out),
        "metrics": evidence.metrics,
        "code_sha256": evidence.code_sha256,
        "libraries": {name: library_version(name) for name in LIBRARIES},
    }
    files = {
        GRAPH: graph,
        PATHS: stored_paths(fit),
        CARD: card(manifest).encode(),
    }
    manifest["files"] = {
        name: dict(zip(("sha256", "size"), digest(content), strict=True))
        for name, content in sorted(files.items())
    }
    return {**files, MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode()}


def _calibration(fit: FittedModel, train: Rows) -> dict[str, float]:
    return {
        "platt_a": fit.platt_a,
        "platt_b": fit.platt_b,
        "threshold": fit.threshold,
        "score_at_threshold": SCORE_AT_THRESHOLD,
        "score_shift": score_shift(fit.threshold),
        "prior": float(train.made.fraud.mean()),
        "prior_shift": 0.0,
    }


def golden(graph: bytes, rows: Rows) -> list[dict[str, Any]]:
    """Returns rows over the whole range of scores, with the graph's outputs."""
    probability, score = run(graph, rows.x)
    order = np.argsort(score, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, GOLDEN_ROWS).astype(int)]
    risky = order[-GOLDEN_ROWS * 20 :: 20]
    return [
        {
            "row": row_values(rows.x[i]),
            "probability": float(probability[i]),
            "risk_score": float(score[i]),
        }
        for i in (*chosen, *risky)
    ]


def stored_paths(fit: FittedModel) -> bytes:
    """Returns the leaves as a NumPy archive, which is the same bytes for the same trees."""
    made = paths(fit.trees.booster_, fit.count)
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(made, name) for name in ARRAYS}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
