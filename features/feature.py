"""What a feature is, how a set of features is defined, and how it becomes a vector."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Status(StrEnum):
    """Whether a feature has a value, and if not, whether that is knowledge or ignorance."""

    PRESENT = "present"
    NO_HISTORY = "no_history"  # a fact: nothing happened that could be measured
    UNAVAILABLE = "unavailable"  # ignorance: the source could not be asked
    OUTSIDE_MAX_AGE = "outside_max_age"  # ignorance: what the source said is too old

    @property
    def known(self) -> bool:
        return self in (Status.PRESENT, Status.NO_HISTORY)


@dataclass(frozen=True, slots=True)
class Feature:
    """One measured value; ``value`` is None exactly when the status is not PRESENT."""

    name: str
    value: float | None
    status: Status

    def __post_init__(self) -> None:
        if (self.value is None) is (self.status is Status.PRESENT):
            raise ValueError(f"{self.name} cannot be {self.status} with value {self.value}")
        if self.value is not None and not abs(self.value) <= FLOAT32_MAX:  # NaN included
            raise ValueError(f"{self.name} is not finite: {self.value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What one column of a feature set means.

    ``formula`` is part of the identity of the set: who changes what a column means says so here,
    and every model trained on the old meaning is refused from then on.
    """

    name: str
    formula: str
    max_age_blocks: int  # how far the tip may be ahead of the block the value was taken at
    required: bool = True  # without it there is no score

    def missing(self, status: Status = Status.UNAVAILABLE) -> Feature:
        return Feature(self.name, None, status)


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """An ordered list of definitions. Its order is the order of a model's columns."""

    name: str
    definitions: tuple[Definition, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(definition.name for definition in self.definitions)

    @property
    def hash(self) -> str:
        """SHA-256 in hex over the canonical JSON of the whole definition."""
        return _hash(self)

    def vector(self, features: Sequence[Feature]) -> Vector:
        """``[n]`` float32, NaN where there is no value; ValueError unless every name is in place.

        Values stay float64 until here: this cast is the only one between a satoshi and the model.
        """
        if tuple(feature.name for feature in features) != self.names:
            raise ValueError(f"the features are not those of {self.name}, in its order")
        values = [np.nan if feature.value is None else feature.value for feature in features]
        return np.array(values, dtype=np.float64).astype(np.float32)

    def unmet(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The required features that are not known; with any of them there is no score."""
        by_name = {feature.name: feature for feature in features}
        return tuple(
            by_name.get(definition.name, definition.missing())
            for definition in self.definitions
            if definition.required
            and not by_name.get(definition.name, definition.missing()).status.known
        )

    def age(self, features: Sequence[Feature], blocks: int) -> tuple[Feature, ...]:
        """The same features ``blocks`` later: what is then too old has lost its value."""
        by_name = {definition.name: definition for definition in self.definitions}
        return tuple(
            replace(feature, value=None, status=Status.OUTSIDE_MAX_AGE)
            if feature.status.known and blocks > by_name[feature.name].max_age_blocks
            else feature
            for feature in features
        )


@lru_cache(maxsize=64)
def _hash(feature_set: FeatureSet) -> str:
    canonical = json.dumps(asdict(feature_set), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
