"""No effect of a run happens twice, under any outcome and any number of redrives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.orchestrator.engine.definitions import (
    EVERYTHING,
    HANDLERS,
    NESTED,
    READ,
    STORE,
    UNDO,
    call,
    steps,
)
from tests.orchestrator.engine.engine_run import paying, run_of
from tests.orchestrator.engine.random_outcomes import HAPPENINGS, Services, live
from tests.profile import examples

TWO = steps(call("keep", STORE, UNDO), call("look", READ))
HOSTILE = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["ok", "late", "lost", "refuse", "defect"])),
    min_size=6,
    max_size=30,
)


@settings(deadline=None, max_examples=examples(200))
@given(HOSTILE)
def test_no_step_takes_effect_twice_while_requests_are_late(
    happenings: list[tuple[int, str]],
) -> None:
    run, services = run_of(TWO, did="d"), Services()

    live(run, services, happenings)
    services.arrive()

    for path in ("keep", "keep/compensate"):
        assert len(services.done.get(path, ())) <= 1


@pytest.mark.parametrize(
    "text", [EVERYTHING, NESTED, HANDLERS], ids=["everything", "nested", "handlers"]
)
@settings(deadline=None, max_examples=examples(60))
@given(happenings=HAPPENINGS)
def test_no_step_takes_effect_twice_in_a_run_that_is_redriven(
    text: str, happenings: list[tuple[int, str]]
) -> None:
    run, services = run_of(text, did="d"), Services()

    live(run, services, happenings)
    services.arrive()

    for path, keys in services.done.items():
        step = run.state.steps.get(path)
        assert len(keys) == 1 or (step is not None and step.effect == "READ"), path


@settings(deadline=None, max_examples=examples(250))
@given(HAPPENINGS)
def test_a_redriven_payment_keeps_its_id_and_the_run_reports_its_outcome(
    happenings: list[tuple[int, str]],
) -> None:
    run, services = paying(), Services()

    live(run, services, happenings)
    services.arrive()

    assert services.done.get("execute_payment", set()) <= {run.state.run_id}
    assert len(run.sent.get("execute_payment", set())) <= 1
    is_made = bool(services.done.get("execute_payment"))
    if run.state.finished and run.status != "NEEDS_ATTENTION":
        assert is_made is (run.status == "SUCCEEDED")
