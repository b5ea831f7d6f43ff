"""Steps of every kind, under every order and outcome of the commands around them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.records import RecordKind
from services.orchestrator.engine.retry_policy import SECOND_US
from services.orchestrator.engine.transition import commands
from tests.orchestrator.engine.definitions import (
    EVERYTHING,
    NESTED,
    READ,
    STORE,
    call,
    indent,
    steps,
)
from tests.orchestrator.engine.engine_run import CRASH, POLICY, run_of
from tests.profile import examples

OUTCOMES = st.sampled_from(
    [
        *(None, None, None, None, None),
        StepError("UNAVAILABLE", "", "gone"),
        StepError("UNAVAILABLE", "BREAKER_OPEN", "open"),
        StepError("DEADLINE_EXCEEDED", "", "late"),
        StepError("FAILED_PRECONDITION", "", "no"),
        CRASH,
    ]
)
# Which of the commands ends next, and how.
HAPPENINGS = st.lists(st.tuples(st.integers(0, 9), OUTCOMES), max_size=60)


@pytest.mark.parametrize("text", [EVERYTHING, NESTED], ids=["everything", "nested"])
@settings(deadline=None, max_examples=examples(150))
@given(happenings=HAPPENINGS)
def test_a_run_ends_and_folds_to_its_state_in_any_order_of_outcomes(
    text: str,
    happenings: list[tuple[int, StepError | str | None]],
) -> None:
    run = run_of(text, did="d")
    for which, outcome in happenings:
        if not run.commands:
            break
        run.do(run.commands[which % len(run.commands)], outcome)
        replayed = run.replayed()
        assert replayed == run.state
        assert commands(replayed, POLICY) == run.commands
        assert run.commands or run.state.finished
    run.finish()

    assert run.state.finished
    assert all(len(requests) == 1 for requests in run.sent.values())
    assert "RUNNING" not in run.statuses().values()
    keys = [step.key for step in run.state.steps.values() if step.key]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("text", [EVERYTHING, NESTED], ids=["everything", "nested"])
@settings(deadline=None, max_examples=examples(100))
@given(happenings=HAPPENINGS)
def test_a_run_with_an_uncertain_step_never_ends_as_failed(
    text: str,
    happenings: list[tuple[int, StepError | str | None]],
) -> None:
    run = run_of(text, did="d")
    for which, outcome in happenings:
        if run.commands:
            run.do(run.commands[which % len(run.commands)], outcome)

    if run.state.finished and "UNCERTAIN" in run.statuses().values():
        assert run.status in ("NEEDS_ATTENTION", "COMPENSATION_FAILED")


@pytest.mark.parametrize("text", [EVERYTHING, NESTED], ids=["everything", "nested"])
@settings(deadline=None, max_examples=examples(100))
@given(happenings=HAPPENINGS)
def test_a_folded_state_leads_to_the_same_records_as_the_kept_one(
    text: str,
    happenings: list[tuple[int, StepError | str | None]],
) -> None:
    kept, folded = run_of(text, did="d"), run_of(text, did="d")
    for which, outcome in happenings:
        if kept.commands:
            folded.state = folded.replayed()
            for run in (kept, folded):
                run.do(run.commands[which % len(run.commands)], outcome)

    assert folded.journal == kept.journal


def test_a_run_without_failures_begins_every_step() -> None:
    run = run_of(EVERYTHING, did="d")

    run.finish()

    skipped = {path for path, status in run.statuses().items() if status == "SKIPPED"}
    assert run.status == "SUCCEEDED"
    assert skipped == {"choose/never", "race/long_enough", "last"}
    assert run.state.steps["each"].output == {
        "results": [{"text": f"{name} {at}", "record": "r"} for at, name in enumerate("abc")],
        "failed": 0,
    }


def test_the_key_of_an_item_ends_with_its_index() -> None:
    run = run_of(EVERYTHING, did="d")

    run.finish()

    assert run.state.steps["each[2]/save"].key == "run/each/save/2"
    assert run.state.steps["both/keep"].key == "run/both/keep/0"


def test_no_more_items_than_allowed_are_in_flight() -> None:
    run = run_of(EVERYTHING, did="d")
    while not any(path.startswith("each") for path in run.calls):
        run.do(run.commands[0])

    assert run.calls == ["each[0]/save", "each[1]/save"]
    run.reply("each[1]/save")
    assert run.calls == ["each[0]/save", "each[2]/save"]


def test_a_failed_item_ends_only_itself() -> None:
    run = run_of(EVERYTHING, did="d")
    while not any(path.startswith("each") for path in run.calls):
        run.do(run.commands[0])
    run.fail("each[0]/save")
    run.finish()

    assert run.state.steps["each"].output["results"][0] is None
    assert run.state.steps["each"].output["failed"] == 1
    assert run.state.reason == "1 were not stored"


def test_completed_steps_are_compensated_in_reverse_order() -> None:
    run = run_of(EVERYTHING, did="d")
    while not any(path.startswith("each") for path in run.calls):
        run.do(run.commands[0])
    run.fail("each[0]/save")
    run.reply("each[1]/save")
    run.reply("each[2]/save")

    assert run.calls == ["both/keep/compensate"]
    run.reply("both/keep/compensate")
    assert run.calls == ["first_store/compensate"]
    run.crash()
    run.reply("first_store/compensate")
    assert run.status == "COMPENSATED"
    assert run.state.reason == "1 were not stored"


def test_a_failed_compensation_ends_the_run_as_compensation_failed() -> None:
    run = run_of(
        steps(
            call(
                "keep",
                STORE,
                "    compensate: {protocol: web5, operation: store_transaction_record,"
                " input_mapping: {did: d, transaction_data: {}}}",
            ),
            call("look"),
        ),
        did="d",
    )
    run.reply("keep")
    run.fail("look")
    run.fail("keep/compensate", "INVALID_ARGUMENT")

    assert run.status == "COMPENSATION_FAILED"
    assert run.state.reason == "keep/compensate: INVALID_ARGUMENT: said the service"


def test_a_caught_error_leaves_null_and_its_reason() -> None:
    text = steps(
        call("look", READ, "    on_error: {errors: [NOT_FOUND]}"),
        'tell\n    set: {links: "{{steps.look.links}}", why: "{{steps.look._error}}"}',
    )
    run = run_of(text, did="d")
    run.fail("look")

    assert run.status == "SUCCEEDED"
    assert run.statuses() == {"look": "FAILED", "tell": "SUCCEEDED"}
    assert run.state.steps["tell"].output == {"links": None, "why": "NOT_FOUND"}


def test_an_error_that_is_not_named_is_not_caught() -> None:
    run = run_of(steps(call("look", READ, "    on_error: {errors: [NOT_FOUND]}")), did="d")

    run.fail("look", "PERMISSION_DENIED")

    assert run.status == "FAILED"


def test_an_error_in_a_handler_ends_the_run() -> None:
    again = indent(READ, 6)
    text = steps(call("look", READ, f"    on_error:\n      steps:\n        - id: ask_again{again}"))
    run = run_of(text, did="d")
    run.fail("look")
    run.fail("look/on_error/ask_again", "PERMISSION_DENIED")

    assert run.status == "FAILED"
    assert run.state.reason.startswith("look/on_error/ask_again: PERMISSION_DENIED")


def test_an_unknown_outcome_is_never_caught() -> None:
    run = run_of(steps(call("keep", STORE, "    timeout: 1s\n    on_error: {}")), did="d")
    while not run.state.finished:
        if run.calls:
            run.fail("keep", "DEADLINE_EXCEEDED")
        else:
            run.do(run.commands[0])

    assert run.status == "NEEDS_ATTENTION"
    assert run.statuses() == {"keep": "UNCERTAIN"}


@pytest.mark.parametrize(
    ("retry", "error", "attempts"),
    [
        ("{max_attempts: 3}", "UNAVAILABLE", 3),
        ("{max_attempts: 3, errors: [ABORTED]}", "UNAVAILABLE", 1),
        ("{max_attempts: 3, errors: [NOT_FOUND]}", "NOT_FOUND", 3),
        (
            "{max_attempts: 9, backoff: 10s, max_delay: 10s, jitter: 0, max_duration: 25s}",
            "ABORTED",
            3,
        ),
    ],
)
def test_a_call_is_tried_as_often_as_its_definition_says(
    retry: str, error: str, attempts: int
) -> None:
    run = run_of(steps(call("look", READ, f"    retry: {retry}")), did="d")
    while not run.state.finished:
        if run.calls:
            run.fail("look", error)
        else:
            run.do(run.commands[0])

    assert run.state.steps["look"].attempt == attempts
    assert run.status == "FAILED"


@pytest.mark.parametrize(
    ("bounds", "most"),
    [
        ("    retry: {backoff: 4s, jitter: 0, max_delay: 1h, max_duration: 1m}", 60),
        ("    retry: {backoff: 4s, jitter: 0, max_delay: 1h}\n    timeout: 1m", 60),
        ("    retry: {backoff: 4s, jitter: 0, max_delay: 1h, max_duration: 9m}", 240),
    ],
    ids=["max_duration", "timeout", "the deadline of the run"],
)
@pytest.mark.parametrize("use", [READ, STORE])
def test_no_attempt_begins_and_no_run_waits_once_time_is_up(
    use: str, bounds: str, most: int
) -> None:
    run = run_of(f"deadline: 4m\n{steps(call('look', use, bounds))}", did="d")
    began = run.now_us
    while not run.state.finished:
        if run.calls:
            assert run.now_us - began < most * SECOND_US
            run.fail("look", "UNAVAILABLE")
        else:
            run.do(run.commands[0])

    assert run.state.steps["look"].attempt > 2
    assert run.now_us - began < most * SECOND_US


def test_a_backoff_doubles_up_to_its_limit() -> None:
    retry = "    retry: {backoff: 1s, max_delay: 3s, jitter: 0}"
    run = run_of(steps(call("look", READ, retry)), did="d")
    waits = []
    for _ in range(3):
        run.fail("look", "UNAVAILABLE")
        (wait,) = run.commands
        waits.append(run.state.steps["look"].until_us - run.now_us)
        run.do(wait)

    assert waits == [1 * SECOND_US, 2 * SECOND_US, 3 * SECOND_US]


def test_a_wait_ends_at_its_time_also_after_a_crash() -> None:
    run = run_of(steps("pause\n    wait: {duration: 30s}"))
    until = run.now_us + 30 * SECOND_US
    run.crash()

    assert run.status == "WAITING"
    assert run.state.steps["pause"].until_us == until
    run.do(run.commands[0])
    assert run.status == "SUCCEEDED"


def test_a_wait_ends_with_the_deadline_of_its_run() -> None:
    text = steps('pause\n    wait: {until: "{{input.when}}"}')
    run = run_of("deadline: 10s\n" + text, when="2033-11-14T22:13:21Z")

    run.do(run.commands[0])

    assert run.status == "FAILED"
    assert run.state.reason.startswith("pause: DEADLINE_EXCEEDED")


def test_a_time_to_wait_for_comes_from_the_input() -> None:
    text = steps('pause\n    wait: {until: "{{input.when}}"}')
    run = run_of(text, when="2023-11-14T22:13:21Z")

    assert run.state.steps["pause"].until_us == 1_700_000_001 * SECOND_US


def test_the_first_branch_to_complete_skips_the_others() -> None:
    run = run_of(EVERYTHING, did="d")
    while "race/ask" not in run.calls:
        run.do(run.commands[0])
    run.do(run.at("race/long_enough"))

    assert run.state.steps["race"].output == {"first": "patience"}
    assert run.statuses()["race/ask"] == "SKIPPED"
    assert run.state.steps["race/ask"].skip_reason == "patience was first in race"


def test_a_failed_branch_lets_steps_in_flight_end_and_begins_no_other() -> None:
    run = run_of(
        steps(
            "both\n    parallel:\n      branches:\n"
            f"        left:\n          - id: look{indent(READ, 8)}\n"
            f"        right:\n          - id: keep{indent(STORE, 8)}\n"
            f"          - id: keep_more{indent(STORE, 8)}"
        ),
        did="d",
    )
    run.fail("both/look")

    assert run.calls == ["both/keep"]
    assert run.journal[-1].kind is RecordKind.STOPPING
    run.crash()
    run.reply("both/keep")
    assert run.status == "FAILED"
    assert "both/keep_more" not in run.state.steps


def test_an_end_before_the_last_step_ends_the_run() -> None:
    run = run_of(
        steps("stop\n    end: {outcome: succeeded, reason: enough}", call("look")), did="d"
    )

    assert (run.status, run.state.reason) == ("SUCCEEDED", "enough")
    assert list(run.state.steps) == ["stop"]


def test_a_list_that_is_too_long_fails_its_step() -> None:
    text = steps(
        'each\n    for_each:\n      items: "{{input.names}}"\n      steps:\n'
        "        - id: name_it\n          set: {a: 1}"
    )

    assert run_of(text, names=["a"] * 1001).status == "FAILED"
    assert run_of(text, names=[]).status == "SUCCEEDED"
