"""The manifest of a model version: the hashes of its files, its features and its calibration."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from features.feature import FeatureSet

MANIFEST, GRAPH, PATHS, CARD = "manifest.json", "model.onnx", "paths.npz", "card.md"
REPRODUCTION_TOLERANCE = 1e-6  # largest difference between the release and training again
SERVING_TOLERANCE = 1e-5  # largest difference between the release and the serving machine


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """A row, and the released version's outputs for it."""

    row: npt.NDArray[np.float32]  # [features]
    probability: float
    risk_score: float


@dataclass(frozen=True, slots=True)
class Manifest:
    name: str
    version: str
    files: dict[str, tuple[str, int]]  # name -> SHA-256 in hex, size in bytes
    feature_set: str
    feature_set_hash: str
    features: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]  # 0.1 % and 99.9 % quantiles in training, by feature
    platt: tuple[float, float]  # Platt scaling: logit p = a * margin + b
    score_shift: float
    threshold: float
    golden: tuple[GoldenRow, ...]

    def check_files(self, contents: Mapping[str, bytes]) -> None:
        """Raises ValueError unless the files are exactly those of the release."""
        if contents.keys() != self.files.keys():
            odd = ", ".join(sorted(contents.keys() ^ self.files.keys()))
            raise ValueError(f"files are missing or too many: {odd}")
        for name, content in contents.items():
            if digest(content) != self.files[name]:
                raise ValueError(f"{name} is not the file that was released")

    def check_features(self, feature_set: FeatureSet) -> None:
        """Raises ValueError unless this code computes the features of the version's training."""
        if (self.feature_set, self.feature_set_hash) != (feature_set.name, feature_set.hash):
            raise ValueError(
                f"it was trained on {self.feature_set} {self.feature_set_hash[:12]}, and this code"
                f" computes {feature_set.name} {feature_set.hash[:12]}: train a new version"
            )

    def check_golden(
        self,
        probability: npt.NDArray[np.float32],
        score: npt.NDArray[np.float32],
        *,
        tolerance: float = SERVING_TOLERANCE,
    ) -> None:
        """Raises ValueError if an output [rows] for the golden rows differs from the release."""
        released = np.array([(row.probability, row.risk_score) for row in self.golden])
        worst = float(np.abs(released - np.stack([probability, score], axis=1)).max())
        if not worst <= tolerance:
            raise ValueError(f"its answers differ from the released ones by {worst:.1e}")

    @property
    def golden_rows(self) -> npt.NDArray[np.float32]:
        """The rows as one array [rows, features]."""
        return np.stack([golden.row for golden in self.golden])


def digest(content: bytes) -> tuple[str, int]:
    """Returns the SHA-256 of a file in hex, and its size in bytes."""
    return hashlib.sha256(content).hexdigest(), len(content)


def row_values(row: npt.NDArray[np.float32]) -> list[float | None]:
    """Returns a row for JSON, in which None stands for NaN."""
    return [None if np.isnan(value) else float(value) for value in row]


def parse(text: bytes) -> Manifest:
    """Parses a manifest. Raises ValueError if a member is missing or of another type."""
    try:
        raw: dict[str, Any] = json.loads(text)
        names = tuple(raw["feature_set"]["features"])
        calibration = raw["calibration"]
        return Manifest(
            name=str(raw["name"]),
            version=str(raw["version"]),
            files={
                str(name): (str(entry["sha256"]), int(entry["size"]))
                for name, entry in raw["files"].items()
            },
            feature_set=str(raw["feature_set"]["name"]),
            feature_set_hash=str(raw["feature_set"]["hash"]),
            features=names,
            ranges=tuple((float(a), float(b)) for a, b in map(raw["ranges"].__getitem__, names)),
            platt=(float(calibration["platt_a"]), float(calibration["platt_b"])),
            score_shift=float(calibration["score_shift"]),
            threshold=float(calibration["threshold"]),
            golden=tuple(_golden(entry, len(names)) for entry in raw["golden"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{MANIFEST} is malformed: {error!r}") from None


def _golden(entry: dict[str, Any], width: int) -> GoldenRow:
    row = np.array(entry["row"], dtype=np.float32)  # None becomes NaN
    if row.shape != (width,):
        raise ValueError(f"a golden row has {row.shape} values, not {width}")
    return GoldenRow(row, float(entry["probability"]), float(entry["risk_score"]))
