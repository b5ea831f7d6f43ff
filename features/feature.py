"""Features, the definition of a set of features, and its vector."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

FLOAT32_MAX = float(np.finfo(np.float32).max)


class Status(StrEnum):
    """The reason why a feature has or lacks a value."""

    PRESENT = "present"
    NO_HISTORY = "no_history"  # a fact: there is nothing to measure
    UNAVAILABLE = "unavailable"  # unknown: the source was not read
    OUTSIDE_MAX_AGE = "outside_max_age"  # unknown: the source's value is too old

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
    """The meaning of one column of a feature set.

    ``formula`` is part of the identity of the set: a change of the meaning changes the formula,
    and models that were trained on the old meaning are refused.
    """

    name: str
    formula: str
    max_age_blocks: int  # by which the tip may be ahead of the block of the value
    required: bool = True  # without it there is no score

    def missing(self, status: Status = Status.UNAVAILABLE) -> Feature:
        return Feature(self.name, None, status)

    def feature(self, measures: Mapping[str, float | None]) -> Feature:
        """Returns the feature: UNAVAILABLE if not measured, NO_HISTORY if measured as None."""
        if self.name not in measures:
            return self.missing()
        value = measures[self.name]
        if value is None:
            return self.missing(Status.NO_HISTORY)
        return Feature(self.name, float(value), Status.PRESENT)


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Definitions in the order of a model's columns."""

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
        """Returns ``[n]`` float32, NaN for missing values: the only cast from float64.

        Raises ValueError unless the features are those of the set, in its order.
        """
        if tuple(feature.name for feature in features) != self.names:
            raise ValueError(f"the features are not those of {self.name}, in its order")
        values = [np.nan if feature.value is None else feature.value for feature in features]
        return np.array(values, dtype=np.float64).astype(np.float32)

    def unmet(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """Returns the required features that are not known; any of them prevents a score."""
        by_name = {feature.name: feature for feature in features}
        return tuple(
            by_name.get(definition.name, definition.missing())
            for definition in self.definitions
            if definition.required
            and not by_name.get(definition.name, definition.missing()).status.known
        )

    def age(self, features: Sequence[Feature], blocks: int) -> tuple[Feature, ...]:
        """Returns the features as of ``blocks`` later; those that are too old lose their value."""
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
