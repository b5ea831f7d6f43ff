"""The model versions that the service serves, each verified against its manifest."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from features.payment_risk import PAYMENT_RISK
from services.ml.explanation import Explainer, Paths
from services.ml.inference import OnnxScorer
from services.ml.manifest import GRAPH, MANIFEST, PATHS, parse
from services.ml.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.ml.manifest import Manifest

FEATURE_SETS = {feature_set.name: feature_set for feature_set in (PAYMENT_RISK,)}


class ModelRegistry:
    """Models by name and version number."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models: dict[str, dict[str, Model]] = {}
        for model in sorted(models, key=lambda model: int(model.version)):
            self._models.setdefault(model.name, {})[model.version] = model

    def find(self, name: str, version: str = "") -> Model | None:
        """Returns the named version, the newest one if none is named, or None if it is unknown."""
        versions = self._models.get(name, {})
        return versions.get(version) if version else next(reversed(versions.values()), None)

    def versions(self, name: str) -> list[str]:
        """Returns the versions of a model, oldest first."""
        return list(self._models.get(name, ()))

    def names(self) -> list[str]:
        return list(self._models)


def load(files: Mapping[str, bytes], *, name: str, version: str) -> Model:
    """Builds the model of a version directory's files.

    Raises ValueError if the manifest names another model, or if a file, the feature set or an
    answer to a golden row differs from the release.
    """
    if MANIFEST not in files:
        raise ValueError(f"{MANIFEST} is missing")
    contents = {file: content for file, content in files.items() if file != MANIFEST}
    manifest = parse(files[MANIFEST])
    if (manifest.name, manifest.version) != (name, version):
        raise ValueError(f"it is {manifest.name} {manifest.version} in another's directory")
    if not version.isdecimal():
        raise ValueError("a version is a number")
    manifest.check_files(contents)
    return _model(manifest, contents)


def _model(manifest: Manifest, contents: Mapping[str, bytes]) -> Model:
    if manifest.feature_set not in FEATURE_SETS:
        known = ", ".join(FEATURE_SETS)
        raise ValueError(f"feature set {manifest.feature_set} is unknown; this code has {known}")
    feature_set = FEATURE_SETS[manifest.feature_set]
    manifest.check_features(feature_set)
    width = len(feature_set.names)
    scorer = OnnxScorer(contents[GRAPH], width)
    manifest.check_golden(*scorer.run(manifest.golden_rows))
    low, high = np.array(manifest.ranges, dtype=np.float32).T
    return Model(
        manifest.name,
        manifest.version,
        feature_set,
        threshold=manifest.threshold,
        platt=(*manifest.platt, manifest.score_shift),
        low=low,
        high=high,
        scorer=scorer,
        explainer=Explainer(Paths.of(_arrays(contents[PATHS])), width),
    )


def _arrays(content: bytes) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return dict(archive)
    except zipfile.BadZipFile:
        raise ValueError(f"{PATHS} is not a NumPy archive") from None
