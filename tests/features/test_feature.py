"""Features, their definitions and the model's vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from features.feature import Definition, Feature, FeatureSet, Status

AGE = Definition(name="age", formula="h - first", max_age_blocks=6)
LINK = Definition(name="link", formula="1 if linked", max_age_blocks=144, required=False)
SET = FeatureSet("test", (AGE, LINK))


def test_vector_holds_the_values_in_the_order_of_the_set() -> None:
    vector = SET.vector([present("age", 3), present("link", 1)])

    assert vector.dtype == np.float32
    assert vector.tolist() == [3.0, 1.0]


def test_feature_without_history_is_nan_in_the_vector() -> None:
    vector = SET.vector([AGE.missing(Status.NO_HISTORY), present("link", 1)])

    assert np.isnan(vector[0])


@pytest.mark.parametrize(
    "names", [("link", "age"), ("age",), ("age", "link", "age"), ("age", "other"), ()]
)
def test_features_out_of_order_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="not those of test"):
        SET.vector([present(name, 1) for name in names])


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.OUTSIDE_MAX_AGE])
def test_required_feature_that_is_not_known_is_unmet(status: Status) -> None:
    features = [AGE.missing(status), LINK.missing(status)]

    unmet = SET.unmet(features)

    assert unmet == (AGE.missing(status),)


def test_no_history_counts_as_known() -> None:
    assert SET.unmet([AGE.missing(Status.NO_HISTORY), LINK.missing()]) == ()


def test_absent_feature_is_unmet() -> None:
    assert SET.unmet([present("link", 1)]) == (AGE.missing(),)


def test_each_feature_ages_by_its_own_limit() -> None:
    fresh = [present("age", 3), LINK.missing(Status.NO_HISTORY)]

    assert SET.age(fresh, 6) == tuple(fresh)
    assert SET.age(fresh, 7) == (AGE.missing(Status.OUTSIDE_MAX_AGE), fresh[1])
    assert SET.age(fresh, 145)[1].status is Status.OUTSIDE_MAX_AGE


def test_unavailable_feature_does_not_age() -> None:
    assert SET.age([AGE.missing(), LINK.missing()], 1_000)[0].status is Status.UNAVAILABLE


@pytest.mark.parametrize(
    "other",
    [
        FeatureSet("other", SET.definitions),
        FeatureSet("test", (LINK, AGE)),
        FeatureSet("test", (AGE,)),
        FeatureSet("test", (replace(AGE, formula="h - last"), LINK)),
        FeatureSet("test", (replace(AGE, required=False), LINK)),
        FeatureSet("test", (replace(AGE, max_age_blocks=7), LINK)),
    ],
)
def test_different_definitions_have_different_hashes(other: FeatureSet) -> None:
    assert SET.hash == FeatureSet("test", (replace(AGE), replace(LINK))).hash
    assert SET.hash != other.hash


@pytest.mark.parametrize(
    ("value", "status"),
    [(None, Status.PRESENT), (1.0, Status.NO_HISTORY), (1.0, Status.UNAVAILABLE)],
)
def test_value_and_status_must_agree(value: float | None, status: Status) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Feature("age", value, status)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_value_is_finite_in_float32(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        present("age", value)


def present(name: str, value: float) -> Feature:
    return Feature(name, float(value), Status.PRESENT)
