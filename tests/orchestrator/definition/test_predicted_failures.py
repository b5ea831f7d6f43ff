"""The check refuses definitions whose runs would only fail: nulls, limits and wrong conditions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.orchestrator import definition

CALL = {"protocol": "web5", "operation": "resolve_did"}


def call(id: str, did: str, **more: Any) -> dict[str, Any]:
    mappings = {
        "input_mapping": {"did": did},
        "output_mapping": {"document": "{{output.document}}"},
    }
    return {"id": id, **CALL, **mappings, **more}


def messages(*steps: dict[str, Any]) -> list[str]:
    """Returns the messages of the check for a definition of these steps, one key a line."""
    text = json.dumps({"id": "example", "name": "x", "steps": steps}, indent=1)
    return [problem.message for problem in definition.check(text)]


SKIPPED = {"id": "name", "condition": "{{input.amount}} > 5", "set": {"text": "x"}}
LATE: dict[str, Any] = {
    "id": "answer",
    "wait_for": {"signal": "said", "timeout": "1m", "on_timeout": "continue"},
}
SCORED = {
    "id": "score",
    "protocol": "ml",
    "operation": "score_fraud_risk",
    "input_mapping": {"sender_did": "d"},
    "output_mapping": {"risk": "{{output.risk_score}}"},
}
USES_SCORE = {**SCORED, "id": "again", "input_mapping": {}, "output_mapping": {}}


@pytest.mark.parametrize(
    ("steps", "null"),
    [
        ([SKIPPED, call("look", "{{steps.name.text}}")], "steps.name.text"),
        ([SKIPPED, call("look", "did:{{steps.name.text}}")], "steps.name.text"),
        ([SKIPPED, {"id": "said", "set": {"text": "to {{steps.name.text}}"}}], "steps.name.text"),
        ([LATE, call("look", "{{steps.answer.signal}}")], "steps.answer.signal"),
        (
            [LATE, {"id": "by", "set": {"who": "{{steps.answer.payload.by}}"}}],
            "steps.answer.payload",
        ),
        (
            [
                LATE,
                {"id": "announced", "emit": {"type": "a", "subject": "{{steps.answer.signal}}"}},
            ],
            "s",
        ),
        (
            [SCORED, {"id": "said", "set": {"text": "risk {{steps.score.risk}}"}}],
            "steps.score.risk",
        ),
        (
            [
                SCORED,
                USES_SCORE
                | {"input_mapping": {"sender_verification_score": "{{steps.score.risk}}"}},
            ],
            "steps.score.risk",
        ),
        (
            [{"id": "no", "set": {"text": None}}, call("look", "{{steps.no.text}}")],
            "steps.no.text",
        ),
        (
            [call("first", "d", on_error={}), call("look", "x{{steps.first.document}}")],
            "steps.first.document",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nullable_value_is_refused_where_null_does_not_fit(
    steps: list[dict[str, Any]], null: str
) -> None:
    found = messages(*steps)

    assert len(found) == 1
    assert found[0].startswith(f"{null}")
    assert "give the step the condition {{steps." in found[0]
    assert found[0].endswith("}} != null")


ENDS = {"id": "stop", "end": {"outcome": "refused", "reason": "no answer came"}}


@pytest.mark.parametrize(
    "steps",
    [
        [SKIPPED, call("look", "{{steps.name.text}}", condition="{{steps.name.text}} != null")],
        [
            SKIPPED,
            call("look", "{{steps.name.text}}", condition="{{steps.name._status}} == 'SUCCEEDED'"),
        ],
        [SKIPPED, call("look", "{{steps.name.text}}", condition="{{input.amount}} > 7")],
        [SKIPPED, {"id": "kept", "set": {"text": "{{steps.name.text}}"}}],
        [
            SKIPPED,
            {
                "id": "one",
                "switch": [
                    {"when": "{{input.amount}} > 5", "steps": [call("look", "{{steps.name.text}}")]}
                ],
            },
        ],
        [
            LATE,
            ENDS | {"condition": "{{steps.answer.signal}} == null"},
            call("look", "{{steps.answer.signal}}"),
        ],
        [
            call("first", "d", on_error={"steps": [ENDS]}),
            {"id": "text", "set": {"text": "x{{steps.first.document}}"}},
        ],
        [
            SKIPPED,
            {"id": "copy", "set": {"text": "{{steps.name.text}}"}},
            call("look", "{{steps.copy.text}}", condition="{{steps.name.text}} != null"),
        ],
    ],
    ids=str,
)
def test_value_guarded_by_condition_is_accepted(steps: list[dict[str, Any]]) -> None:
    assert messages(*steps) == []


def each(items: object, *steps: dict[str, Any]) -> dict[str, Any]:
    inside = list(steps) or [{"id": "inner", "set": {"x": "{{item}}"}}]
    return {"id": "each", "for_each": {"items": items, "steps": inside}}


@pytest.mark.parametrize(
    "steps",
    [
        [each([1] * 1001)],
        [{"id": "all", "set": {"names": [1] * 1001}}, each("{{steps.all.names}}")],
    ],
)
def test_list_too_long_for_for_each_is_refused_at_its_position(
    steps: list[dict[str, Any]],
) -> None:
    text = json.dumps({"id": "example", "name": "x", "steps": steps}, indent=1)
    line = 1 + text[: text.index('"items"')].count("\n")

    (problem,) = definition.check(text)

    assert problem.line == line
    assert problem.column == text.splitlines()[line - 1].index(":") + 3
    assert problem.message.startswith("1001 items, at most 1000: make it a list of lists")


def test_list_of_maximum_length_is_accepted() -> None:
    assert messages(each([1] * 1000)) == []


def test_definition_with_too_many_steps_per_run_is_refused() -> None:
    inside = [{"id": f"s{at}", "set": {"x": 1}} for at in range(20)]

    assert messages(each([1] * 1000, *inside)) == [
        "a run has 20001 steps, each item's counted: at most 20000"
    ]
    assert messages(each([1] * 1000, *inside[1:])) == []


def test_missing_member_of_literal_list_is_reported() -> None:
    steps = [{"id": "all", "set": {"names": ["a", "b"], "rows": [{"n": 1}, {"n": 2}]}}]
    read = {"id": "read", "set": {"third": "{{steps.all.names[2]}}"}}
    rows = each("{{steps.all.rows}}", {"id": "row", "set": {"x": "{{item.m}}"}})
    whole = each("{{steps.all.rows}}", call("look", "{{item.n}}"))

    assert messages(*steps, read) == ["steps.all.names is a list: it has no 2"]
    assert messages(*steps, rows) == ["item is an object: it has no 'm'; it has n"]
    assert messages(*steps, whole) == ["item.n is any number, not a string"]


def test_member_missing_in_one_item_is_reported_unless_items_may_fail() -> None:
    reads = {"id": "row", "set": {"x": "{{item.n}}"}}
    items = [{"n": "a"}, {"m": "b"}]
    tolerant = each(items, reads)
    tolerant["for_each"]["on_item_error"] = "continue"

    assert messages(each(items, reads)) == ["item is an object of several kinds: it has no 'n'"]
    assert messages(each(["d", 7], call("look", "{{item}}"))) == [
        "item is a string or any number, not a string"
    ]
    assert messages(tolerant) == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("{{steps.all.list}} > 5", "steps.all.list is a list, not any number"),
        ("{{steps.all.list}} || true", "steps.all.list is a list, not true or false"),
        ("{{steps.all.map}} == 'x'", "steps.all.map is an object, not a string"),
    ],
)
def test_list_or_object_is_not_compared_as_another_type(condition: str, message: str) -> None:
    first = {"id": "all", "set": {"list": [1], "map": {"a": 1}}}
    good = "{{steps.all.list}} == [1] && 'a' in {{steps.all.map}} && {{steps.all.list}} != null"

    assert messages(first, {"id": "b", "condition": condition, "set": {}}) == [message]
    assert messages(first, {"id": "b", "condition": good, "set": {}}) == []


@pytest.mark.parametrize(
    ("condition", "offset", "message"),
    [
        ("1 == 1 && " * 500 + "true", 4096, "5004 characters, at most 4096: give a part of it to"),
        ("(" * 33 + "1" + ")" * 33 + " == 1", 32, "nests deeper than the 32 levels of CEL"),
        (
            "{{input.x}} == 1 && x = 2",
            22,
            "Syntax error: token recognition error at: '= '; compare",
        ),
        ("{{input.x}} == 1 and true", 17, "Syntax error: mismatched input 'and'; write &&"),
        ("'é😀' == 'x' && {{input.x}} == yes", 30, "undeclared reference to 'yes'; write paths as"),
        ("{{input.x}} > 1 &&\n {{input.y}} ==", 33, "Syntax error: mismatched input '<EOF>': it"),
        ("{{ctx.now}} > 5", 12, "found no matching overload for '_>_' applied to '(string, int)'"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_condition_is_refused_at_position_of_mistake(
    condition: str, offset: int, message: str
) -> None:
    step = {"id": "one", "condition": condition, "set": {"x": 1}}
    text = json.dumps({"id": "example", "name": "x", "steps": [step]}, ensure_ascii=False)
    written = json.dumps(condition, ensure_ascii=False)
    before = condition[:offset].count("\n")  # each is two characters there

    (problem,) = definition.check(text)

    assert problem.message.startswith(message)
    assert problem.column == text.index(written) + 2 + offset + before


def test_too_many_operators_in_a_row_are_refused_with_limit_and_remedy() -> None:
    (message,) = messages({"id": "one", "condition": "1+" * 40 + "1 == 1", "set": {"x": 1}})

    assert (
        "32 levels of CEL, by brackets or by operators in a row: split it with && or ||" in message
    )


def test_many_parts_joined_by_and_are_accepted() -> None:
    condition = " && ".join(["{{input.x}} != 1"] * 200)

    assert messages({"id": "one", "condition": condition, "set": {"x": 1}}) == []


def test_wait_longer_than_deadline_is_refused() -> None:
    text = json.dumps(
        {
            "id": "example",
            "name": "x",
            "deadline": "1m",
            "steps": [{"id": "pause", "wait": {"duration": "60s"}}],
        }
    )

    (problem,) = definition.check(text)

    assert problem.message == "must be shorter than the deadline of the run"


@pytest.mark.parametrize(
    ("emitted", "message"),
    [
        ({"type": "a.b", "subject": "x" * 201}, "must be at most 200 characters"),
        ({"type": "a.b", "data": {"text": "x" * 65536}}, "must be at most 64 KiB of JSON"),
    ],
)
def test_event_beyond_limits_is_refused(emitted: dict[str, Any], message: str) -> None:
    assert messages({"id": "tell", "emit": emitted}) == [message]
