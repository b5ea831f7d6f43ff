"""Rounds of two sides: the order of turns, the ratio, and a side that fails."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.__main__ import measure
from benchmarks.peer import PeerMissing
from benchmarks.ratio import Compared, Ratio, of_rounds
from benchmarks.rounds import Plan, Sample, compare, ratio, turns
from benchmarks.runs import engine
from benchmarks.runs.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SAMPLES = st.lists(
    st.builds(Sample, amount=st.floats(1, 1e6), cost=st.floats(1e-3, 1e3)), min_size=1, max_size=20
)


@given(SAMPLES, SAMPLES)
def test_swapping_the_sides_inverts_the_ratio(ours: list[Sample], theirs: list[Sample]) -> None:
    assert ratio(ours, theirs) * ratio(theirs, ours) == pytest.approx(1)


@given(SAMPLES)
def test_a_side_against_itself_is_1(samples: list[Sample]) -> None:
    assert ratio(samples, samples) == 1


@given(SAMPLES, SAMPLES, st.floats(0.01, 100))
def test_ratio_is_as_many_times_as_high_as_our_amounts(
    ours: list[Sample], theirs: list[Sample], factor: float
) -> None:
    more = [Sample(sample.amount * factor, sample.cost) for sample in ours]

    assert ratio(more, theirs) == pytest.approx(ratio(ours, theirs) * factor)


@given(SAMPLES, SAMPLES)
def test_order_of_bursts_does_not_matter(ours: list[Sample], theirs: list[Sample]) -> None:
    shuffled = sorted(ours, key=lambda sample: (sample.cost, sample.amount))

    assert ratio(shuffled, theirs) == pytest.approx(ratio(ours, theirs))


@given(st.integers(1, 50))
def test_each_side_has_as_many_turns_and_the_order_swaps(pairs: int) -> None:
    order = list(turns(pairs))

    assert order.count(0) == order.count(1) == pairs
    assert all(order[at] != order[at + 1] for at in range(0, 2 * pairs, 2))
    assert all(order[at] == order[at + 1] for at in range(1, 2 * pairs - 1, 2))


def test_every_burst_of_a_round_counts_and_the_warm_up_does_not() -> None:
    plan = Plan(rounds=2, pairs=3, burst_s=0.5, warm_up_s=9)
    ours, theirs = script([1000, 1, 2, 3, 4, 4, 4]), script([1000, 1, 1, 1, 2, 2, 2])

    assert compare(ours, theirs, plan) == [2, 2]


def script(amounts: Sequence[float]) -> Callable[[float], Sample]:
    """Returns a side that makes these amounts, one in each burst."""
    left = iter(amounts)
    return lambda seconds: Sample(next(left), seconds)


@pytest.mark.parametrize(
    "error", [PeerMissing("npm is not installed"), EngineError("dbos ended with status 1")]
)
def test_a_failed_burst_makes_the_row_none_with_the_reason(error: Exception) -> None:
    def failing(seconds: float) -> Sample:
        raise error

    found = of_rounds(
        lambda: Compared(tuple(compare(script([1] * 99), failing, Plan(1)))),
        goal=2,
        unit="times",
        peer="dbos 1",
    )

    assert found.value is None
    assert found.reason == str(error)
    assert found.goal == 2
    assert not found.holds


def test_an_unforeseen_failure_is_a_row_too(caplog: pytest.LogCaptureFixture) -> None:
    def failing(rounds: int) -> Ratio:
        raise ZeroDivisionError("no runs\nat all")

    found = measure("some_key", failing, 1)

    assert found.value is None
    assert found.reason == "ZeroDivisionError: no runs"
    assert "some_key failed" in caplog.text


def test_an_engine_that_ends_early_is_an_error_with_its_status() -> None:
    with (
        pytest.raises(EngineError, match="our engine ended with status 2"),
        engine.ours("--no-such-option", python=sys.executable),
    ):
        pass
