"""An input that no field types has the type that conditions use it as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.orchestrator import definition
from services.orchestrator.definition import values


def inputs_of(*conditions: str, **set_: str) -> Any:
    steps = [
        {"id": f"s{at}", "condition": condition, "set": {"x": 1, **set_}}
        for at, condition in enumerate(conditions)
    ]
    return definition.load(json.dumps({"id": "example", "name": "x", "steps": steps})).inputs


@pytest.mark.parametrize(
    ("condition", "good", "bad", "expected"),
    [
        ("{{input.x}} > 5", [7, 7.5], ["7", True, None, [7]], "any number"),
        ("0.5 <= {{input.x}}", [7, 0.1], ["7"], "any number"),
        ("{{input.x}} == 'yes'", ["no"], [1, False, None], "a string"),
        ("{{input.x}} in ['a', 'b']", ["c"], [1], "a string"),
        ("{{input.x}} in [1, 2]", [3], ["1"], "any number"),
        ("{{input.x}} == true", [False], ["true", 1], "true or false"),
        ("{{input.x}} && {{input.y}} > 1", [True], [1, "true"], "true or false"),
        ("!{{input.x}}", [True], [0], "true or false"),
        ("{{input.x}} ? true : false", [True], [0], "true or false"),
        ("size({{input.x}}) > 2", ["abc", [1], {}], [3, True], "a text, a list or an object"),
        ("{{input.x}}.size() > 2", ["abc"], [3], "a text, a list or an object"),
        ("'a' in {{input.x}}", [["a"], {"a": 1}], ["abc", 1], "a list or an object"),
        ("{{input.x}}.exists(one, one == 'a')", [["a"]], ["a"], "a list or an object"),
        ("{{input.x}}.startsWith('a')", ["b"], [1], "a string"),
        ("{{input.x}} + 1 > 5", [7], ["7"], "any number"),
        ("{{input.x}} > {{input.n}} - 1", [7], [], ""),
        ("{{input.x}} < size('abc')", [7], ["a"], "any number"),
        ("{{ctx.now}} > {{input.x}}", ["2026"], [2026], "a string"),
        ("{{input.x}} == null || {{input.x}} > 5", [None, 7], ["7"], "any number"),
        ("{{input.x}} == 'a' || {{input.x}} == 5", ["a", 5, None], [], ""),
        ("{{input.x}} == {{input.y}}", [1, "a", None], [], ""),
    ],
)
def test_value_is_checked_against_its_use(
    condition: str, good: list[object], bad: list[object], expected: str
) -> None:
    inputs = inputs_of(condition)
    others = {"y": 1 if "==" in condition else 7, "n": 1}
    given = {name: others[name] for name in inputs.names if name != "x"}

    for value in good:
        inputs.check({**given, "x": value})
    for value in bad:
        with pytest.raises(values.MismatchError, match=f"^x must be {expected}$"):
            inputs.check({**given, "x": value})


def test_uses_in_all_conditions_are_combined() -> None:
    inputs = inputs_of("size({{input.x}}) > 1", "{{input.x}} == 'a'", "{{input.y}} == 1")

    assert {str(path): str(type) for path, type in inputs.declared.items()} == {
        "input.x": "a string",
        "input.y": "any number",
    }


def test_type_of_field_overrides_use_in_condition() -> None:
    step = {
        "id": "one",
        "protocol": "bitcoin",
        "operation": "extract_payment_features",
        "condition": "{{input.amount}} > 5",
        "input_mapping": {"amount": "{{input.amount}}"},
        "output_mapping": {},
    }
    inputs = definition.load(json.dumps({"id": "a", "name": "a", "steps": [step]})).inputs

    with pytest.raises(values.MismatchError, match="amount must be an integer"):
        inputs.check({"amount": 5.5})


def test_conditions_of_switch_cases_give_types() -> None:
    case = {"when": "{{input.kind}} == 'a'", "steps": [{"id": "in", "set": {"x": 1}}]}
    case["steps"][0]["id"] = "inner"  # type: ignore[index]
    step = {"id": "one", "switch": [case]}
    inputs = definition.load(json.dumps({"id": "a", "name": "a", "steps": [step]})).inputs

    with pytest.raises(values.MismatchError, match="kind must be a string"):
        inputs.check({"kind": 1})


def test_inner_workflow_takes_inputs_of_inferred_type() -> None:
    inner = {"id": "inner", "name": "i", "steps": [{"id": "a", "condition": "{{input.n}} > 5"}]}
    inner["steps"][0]["set"] = {"x": 1}  # type: ignore[index]
    known = definition.operations().with_workflow(definition.load(json.dumps(inner)))
    step = {"id": "one", "workflow": "inner", "input_mapping": {"n": "7"}, "output_mapping": {}}
    outer = {"id": "outer", "name": "o", "steps": [step]}

    (problem,) = definition.check(json.dumps(outer), known)

    assert problem.message == "must be any number"
