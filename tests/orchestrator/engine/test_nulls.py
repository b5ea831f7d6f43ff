"""Null values that a step cannot use are named with path, step and remedy; conditions skip operands
that do not decide them."""

from __future__ import annotations

import pytest

from tests.orchestrator.engine.definitions import READ, STORE, steps
from tests.orchestrator.engine.engine_run import run_of

GIVEN = 'given\n    set: {who: "{{input.who}}"}'
ANSWER = """answer
    wait_for: {signal: said, timeout: 1m, on_timeout: continue}"""


def ask(did: str, more: str = "") -> str:
    return f"look{READ.replace('{{input.did}}', did)}{more}"


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        (
            [GIVEN, ask("{{steps.given.who}}")],
            "input of look: did must be a string; steps.given.who is null, because step given"
            " returned none: give look the condition {{steps.given.who}} != null,"
            " or map a value that is always there",
        ),
        (
            [GIVEN, ask("x{{steps.given.who}}")],
            "input of look: did: steps.given.who is null and cannot be part of a text;"
            " steps.given.who is null, because step given returned none",
        ),
        (
            [GIVEN, ask("{{steps.given.who.name}}")],
            "input of look: did: steps.given.who.name does not exist; steps.given.who is null,",
        ),
        (
            [GIVEN, ask("x{{input.who}}")],
            "input.who is null: give look the condition {{input.who}} != null",
        ),
        (
            [GIVEN, 'pause\n    wait: {until: "{{steps.given.who}}"}'],
            "input of pause: until must be an RFC 3339 time; steps.given.who is null",
        ),
        (
            [GIVEN, 'announce\n    emit: {type: a.b, subject: "{{steps.given.who}}"}'],
            "input of announce: subject must be a text of 1 to 200 characters without U+0000;"
            " steps.given.who is null",
        ),
        (
            [
                GIVEN,
                'one\n    for_each: {items: "{{steps.given.who}}", steps: [{id: a, set: {b: 1}}]}',
            ],
            "input of one: items must be a list of at most 1000; steps.given.who is null",
        ),
        (
            [GIVEN, 'listen\n    wait_for: {signal: a, correlation: "{{steps.given.who}}"}'],
            "input of listen: correlation must be a text of 0 to 200 characters without U+0000;"
            " steps.given.who is null",
        ),
        (
            [GIVEN, 'stop\n    end: {outcome: failed, reason: "{{steps.given.who}}"}'],
            "input of stop: reason must be a text; steps.given.who is null",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_null_value_is_named_with_its_step_and_a_remedy(listed: list[str], words: str) -> None:
    run = run_of(steps(*listed), who=None)

    assert run.status == "FAILED"
    assert words in run.state.reason


def test_a_skipped_step_is_named_as_the_cause() -> None:
    text = steps(
        f"kept{STORE}",
        'name\n    condition: "{{input.n}} > 5"\n    set: {text: x}',
        'copy\n    set: {text: "{{steps.name.text}}"}',
        ask("{{steps.name.text}}", '    condition: "{{input.n}} < 9"'),
    )
    run = run_of(text, did="d", n=1)
    run.reply("kept")

    assert "steps.name.text is null, because step name was skipped: give look" in run.state.reason


def test_a_condition_ignores_a_missing_operand_that_does_not_decide_it() -> None:
    text = steps(
        ANSWER,
        "by_ada\n    condition: \"{{steps.answer.signal}} == 'said' && {{steps.answer.payload.by}}"
        " == 'Ada'\"\n    set: {x: 1}",
    )
    run = run_of(text)
    run.expire("answer")

    assert run.status == "SUCCEEDED"
    assert run.statuses()["by_ada"] == "SKIPPED"


def test_a_condition_that_depends_on_a_missing_operand_cannot_be_judged() -> None:
    text = steps(
        ANSWER,
        'by_ada\n    condition: "{{steps.answer.signal}} == null && {{steps.answer.payload.by}}'
        " == 'Ada'\"\n    set: {x: 1}",
    )
    run = run_of(text)
    run.expire("answer")

    assert run.status == "FAILED"
    assert "steps.answer.payload.by does not exist: condition of by_ada cannot" in run.state.reason
