"""The model versions on disk, ``NAME/VERSION/``: verified to the last byte, or the service refuses
to start. A version directory never changes; a new version is a new directory.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from features.payment_risk import PAYMENT_RISK
from mesh.config import ConfigError
from services.ml.explanation import Explainer, Paths
from services.ml.inference import OnnxScorer
from services.ml.manifest import GRAPH, MANIFEST, PATHS, parse
from services.ml.model import Model

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from services.ml.manifest import Manifest

FEATURE_SETS = {feature_set.name: feature_set for feature_set in (PAYMENT_RISK,)}
MAX_FILE_BYTES = 64 * 1024 * 1024


class Registry:
    """Models by name and version; of a name without a version, the newest."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models: dict[str, dict[str, Model]] = {}
        for model in sorted(models, key=lambda model: int(model.version)):
            self._models.setdefault(model.name, {})[model.version] = model

    @classmethod
    def load(cls, folder: Path) -> Registry:
        """Every version below ``folder``. ConfigError if one of them is not what was released."""
        directories = sorted(path.parent for path in folder.glob(f"*/*/{MANIFEST}"))
        if not directories:
            raise ConfigError(f"there is no model in {folder}; set ANYA_MODELS")
        return cls(map(load, directories))

    def find(self, name: str, version: str = "") -> Model | None:
        versions = self._models.get(name, {})
        return versions.get(version) if version else next(reversed(versions.values()), None)

    def versions(self, name: str) -> list[str]:
        """Oldest first."""
        return list(self._models.get(name, ()))

    def names(self) -> list[str]:
        return list(self._models)


def load(directory: Path) -> Model:
    """One version. ConfigError if a file, a feature or an answer is not as it was released."""
    try:
        contents = {path.name: _read(path) for path in directory.iterdir()}
        manifest = parse(contents.pop(MANIFEST))
        if (manifest.name, manifest.version) != (directory.parent.name, directory.name):
            raise ValueError(f"it is {manifest.name} {manifest.version} in another's directory")
        if not manifest.version.isdecimal():
            raise ValueError("a version is a number")
        manifest.check_files(contents)
        return _model(manifest, contents)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the model in {directory} cannot be served: {error}") from None


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()


def _model(manifest: Manifest, contents: dict[str, bytes]) -> Model:
    if manifest.feature_set not in FEATURE_SETS:
        raise ValueError(f"no feature set {manifest.feature_set} here")
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
        raise ValueError(f"{PATHS} is no NumPy archive") from None
