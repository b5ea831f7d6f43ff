"""Conditions decide or fail, and name the operand that was the reason."""

from __future__ import annotations

from typing import Any

import pytest

from services.orchestrator.definition.cel import Condition, ConditionInvalidError, compile_condition
from services.orchestrator.definition.types import ANY, BOOL, DOUBLE, INT, STRING, ValueType

TYPES = {
    "steps.a.verified": BOOL,
    "steps.b.score": DOUBLE,
    "steps.b.maybe": DOUBLE.or_null(),
    "steps.c.status": STRING.or_null(),
    "input.amount": INT,
    "input.list[0]": STRING,
}
SCORED = "{{steps.a.verified}} && {{steps.b.maybe}} < 0.7"


def compiled(text: str) -> Condition:
    return compile_condition(text, lambda path, _: TYPES[str(path)])


def scope(**values: Any) -> dict[str, Any]:
    found = {"verified": True, "score": 0.1, "maybe": 0.1, "status": "success"} | values
    steps = {
        "a": {"verified": found["verified"]},
        "b": {"score": found["score"], "maybe": found["maybe"]},
        "c": {"status": found["status"]},
    }
    return {"steps": steps, "input": {"amount": 5, "list": ["x"]}}


@pytest.mark.parametrize(
    ("text", "values", "holds"),
    [
        (SCORED, {}, True),
        (SCORED, {"maybe": 0.7}, False),
        (SCORED, {"verified": False, "maybe": None}, False),
        (SCORED, {"maybe": None}, None),
        ("{{steps.c.status}} == 'success'", {}, True),
        ("{{steps.c.status}} == 'success'", {"status": None}, False),
        ("{{steps.c.status}} == null", {"status": None}, True),
        ('{{input.list[0]}} == "x" || {{input.amount}} > 9', {}, True),
        ("{{input.amount}} / 0 > 1", {}, None),
        ("{{steps.b.score}} < 0.7", {"score": 0}, True),
    ],
)
def test_condition_holds_or_not_or_cannot_be_judged(
    text: str, values: dict[str, Any], holds: bool | None
) -> None:
    assert compiled(text).evaluate(scope(**values)).holds is holds


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"maybe": 0.93}, "steps.b.maybe is 0.93"),
        ({"verified": False}, "steps.a.verified is false"),
        ({"maybe": None}, "steps.b.maybe is null"),
    ],
)
def test_reason_names_operand_and_its_value(values: dict[str, Any], reason: str) -> None:
    assert compiled(SCORED).evaluate(scope(**values)).reason == reason


def test_result_keeps_all_operands() -> None:
    result = compiled(SCORED).evaluate(scope(maybe=0.93))

    assert result.operands == {"steps.a.verified": True, "steps.b.maybe": 0.93}


def test_personal_data_is_not_shown() -> None:
    secret = ValueType(STRING.kind, showable=False)
    condition = compile_condition("{{input.did}} == 'x'", lambda path, offset: secret)

    result = condition.evaluate({"input": {"did": "did:key:z6Mk"}})

    assert result.reason == "input.did is a value that is not shown"


def test_missing_operand_cannot_be_judged() -> None:
    result = compiled("{{input.list[0]}} == 'x'").evaluate({"input": {"list": []}})

    assert result.holds is None
    assert result.reason == "input.list[0] does not exist"


@pytest.mark.parametrize("name", ["Ada\0", "Ada\0Bob"])
@pytest.mark.parametrize("text", ["{{input.list[0]}} == 'Ada'", "{{input.list[0]}} != 'Ada'"])
def test_text_with_nul_is_never_compared_by_its_beginning(text: str, name: str) -> None:
    result = compiled(text).evaluate({"input": {"list": [name]}})

    assert result.holds is None
    assert result.reason == "input.list[0] holds the character U+0000"


def test_nul_inside_list_is_found() -> None:
    condition = compile_condition("'Ada' in {{input.names}}", lambda path, offset: ANY)

    assert condition.evaluate({"input": {"names": [{"Ada\0": 1}]}}).holds is None
    assert condition.evaluate({"input": {"names": ["Ada"]}}).holds is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{steps.b.score}}", "a condition must be true or false"),
        ("{{steps.b.maybe}}", "a condition must be true or false"),
        ("{{input.amount}} < 0.7", "found no matching overload for '_<_'"),
        ("steps.a.verified", "undeclared reference to 'steps.a.verified'"),
        ("{{steps.a.verified}} &&", "Syntax error"),
        ("'{{steps.c.status}}' == 'x'", "a path inside quotes is only text"),
        ("{{steps.a.verified", "is no path"),
        ("true" + " && true" * 1000, "8004 characters, at most 4096"),
    ],
)
def test_invalid_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConditionInvalidError, match=".*" + message.replace("(", r"\(")):
        compiled(text)


def test_condition_that_exhausts_its_budget_is_not_judged() -> None:
    levels = "".join(f"[1,2,3,4,5,6,7,8,9,0].all(x{at}, " for at in range(5))
    bomb = compiled(f"{levels}true{')' * 5} && {{{{steps.a.verified}}}}")

    assert bomb.evaluate(scope(), limit=10**9).holds is None
