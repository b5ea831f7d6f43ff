"""The limits and refusals in the reference of the workflow language are true, one by one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator import definition
from services.orchestrator.definition import values
from tests.orchestrator.engine.engine_run import run_of

TEXT = (Path(__file__).parents[2] / "docs" / "workflow-language.md").read_text()
WORDS = " ".join(re.sub(r"[`*]", "", TEXT).split())
SET: dict[str, Any] = {"set": {"x": 1}}
CALL = {"protocol": "web5", "operation": "resolve_did", "output_mapping": {}}
CALLS = {**CALL, "input_mapping": {"did": "d"}}
PAYS = {**CALLS, "protocol": "bitcoin", "operation": "send_transaction", "input_mapping": {}}


def of(*steps: dict[str, Any], **more: Any) -> str:
    return json.dumps({"id": "example", "name": "x", **more, "steps": steps})


def step(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, **(more or SET)}


def each(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "each", "for_each": {"items": [1], "steps": list(steps), **more}}


def race(*steps: dict[str, Any]) -> dict[str, Any]:
    branches = {"a": list(steps), "b": [step("other")]}
    return {"id": "race", "parallel": {"wait_for": "first", "branches": branches}}


MANY = [step(f"s{at}") for at in range(101)]

# A sentence of the reference, a definition that it refuses, and words of the check's message.
REFUSED: list[tuple[str, str, str]] = [
    ("at most 48, beginning with a letter", of(step("a" * 49)), "must be 1 to 48"),
    ("no anchors, tags or duplicate keys", "id: &a b", "anchors and aliases"),
    ("no anchors, tags or duplicate keys", "id: !a b", "tags are not read"),
    ("no anchors, tags or duplicate keys", "id: a\nid: b", "duplicate key"),
    ("(yes, 0x1F, 2026-01-31) must stand in quotes", "id: yes", "ambiguous"),
    ("A definition has at most 256 KiB", " " * (256 * 1024 + 1), "longer than 256 KiB"),
    ("32 levels and 100 steps in a list", "[" * 34 + "]" * 34, "deeper than 32 levels"),
    ("32 levels and 100 steps in a list", of(*MANY), "a list of 1 to 100 steps"),
    (
        "the reply, in output_mapping only",
        of(step("a", set={"x": "{{output.x}}"})),
        "output can be",
    ),
    ("inside for_each", of(step("a", set={"x": "{{item}}"})), "inside for_each only"),
    ("an output of an earlier step", of(step("a", set={"x": "{{steps.b.x}}"}), step("b")), "later"),
    ("A path that does not exist is an error", of(step("a", set={"x": "{{ctx.x}}"})), "ctx has"),
    (
        "value cannot stand where null does not fit",
        of(
            step("a", condition="{{input.n}} > 1", **SET),
            step("b", set={"text": "no {{steps.a.x}}"}),
        ),
        "steps.a.x may be null",
    ),
    (
        "A condition has at most 4096 characters and 32 levels",
        of(step("a", condition="1 == 1 && " * 500 + "true", **SET)),
        "5004 characters, at most 4096",
    ),
    (
        "32 levels of brackets, or of operators in a row",
        of(step("a", condition="1 + " * 40 + "1 == 41", **SET)),
        "32 levels of CEL",
    ),
    ("different from all others in the definition", of(step("a"), step("a")), "another step is"),
    (
        "It must be shorter than the run's deadline",
        of(step("a", **CALLS, timeout="1m"), deadline="1m"),
        "must be shorter than the deadline",
    ),
    (
        "A last case without when always holds",
        of(step("a", switch=[{"steps": [step("b")]}])),
        "when is missing",
    ),
    (
        "A workflow cannot run inside itself",
        of(step("a", workflow="example", input_mapping={}, output_mapping={})),
        "cannot run inside itself",
    ),
    (
        "one that pays cannot run inside another",
        of(
            step(
                "a",
                workflow="verified_payment",
                input_mapping=dict.fromkeys(
                    ("sender_did", "sender_address", "recipient_address"), "x"
                )
                | {"amount": 1},
                output_mapping={},
            )
        ),
        "verified_payment pays",
    ),
    (
        "types that begin with orchestrator. are the engine's",
        of(step("a", emit={"type": "orchestrator.x"})),
        "are the engine's",
    ),
    (
        "It has data of at most 64 KiB",
        of(step("a", emit={"type": "x", "data": {"x": "x" * 65536}})),
        "at most 64 KiB",
    ),
    ("it cannot stand in a race for the first", of(race(step("a", emit={"type": "x"}))), "a race"),
    (
        "so they may only read, wait, ask and set",
        of(race(step("a", **PAYS))),
        "cannot be taken back",
    ),
    (
        "Branches cannot read each other's steps",
        of(
            {
                "id": "both",
                "parallel": {
                    "branches": {"l": [step("a")], "r": [step("b", set={"x": "{{steps.a.x}}"})]}
                },
            }
        ),
        "cannot be seen",
    ),
    (
        "at most 32. text and values",
        of(
            step(
                "a",
                approval={
                    "approvers": [f"did:x:{at}" for at in range(33)],
                    "quorum": 1,
                    "text": "x",
                },
            )
        ),
        "1 to 32 different DIDs",
    ),
    (
        "at most 1000, with max_concurrency items at once",
        of(each(step("a"), items=[1] * 1001)),
        "1001",
    ),
    (
        "Only collect can read the steps inside",
        of(each(step("a")), step("b", set={"x": "{{steps.a.x}}"})),
        "cannot be seen from here",
    ),
    ("end cannot stand in it", of(each(step("a", end={"outcome": "failed"}))), "cannot end inside"),
    (
        "are at most 20,000",
        of(each(*(step(f"s{at}") for at in range(21)), items=[1] * 1000)),
        "at most 20000",
    ),
    ("Its errors are never caught", of(step("a", **PAYS, on_error={})), "is never caught"),
    (
        "it cannot stand in parallel",
        of({"id": "both", "parallel": {"branches": {"l": [step("a", **PAYS)], "r": [step("b")]}}}),
        "cannot be taken back",
    ),
]


@pytest.mark.parametrize(("says", "text", "words"), REFUSED, ids=[says for says, *_ in REFUSED])
def test_check_refuses_definitions_that_reference_refuses(says: str, text: str, words: str) -> None:
    found = [problem.message for problem in definition.check(text)]

    assert says in WORDS
    assert any(words in message for message in found), found


def test_number_is_read_by_its_value() -> None:
    assert "2.0 is the integer 2" in WORDS
    assert run_of(of(step("a", set={"x": 2.0}))).state.steps["a"].output == {"x": 2}


def test_check_reports_first_two_hundred_problems() -> None:
    bad = {f"x{at}": "{{steps.missing.x}}" for at in range(300)}

    assert "The check reports the first 200 problems" in WORDS
    assert len(definition.check(of(step("a", set=bad)))) == 200


@pytest.mark.parametrize(
    ("says", "condition", "wrong"),
    [
        ("a number if it is compared with a number", "{{input.x}} > 5", "7"),
        ("compared with a number, a text", "{{input.x}} == 'a'", 7),
        ("a truth value", "{{input.x}} || false", "true"),
        ("a list if a condition asks what is in it", "'a' in {{input.x}}", "abc"),
    ],
)
def test_input_has_type_that_conditions_use_it_as(says: str, condition: str, wrong: object) -> None:
    inputs = definition.load(of(step("a", condition=condition, **SET))).inputs

    assert says in WORDS
    with pytest.raises(values.MismatchError, match="x must be"):
        inputs.check({"x": wrong})


def test_input_that_conditions_use_differently_may_be_anything() -> None:
    condition = "{{input.x}} == 'a' || {{input.x}} == 5"
    inputs = definition.load(of(step("a", condition=condition, **SET))).inputs

    assert "If conditions use it as different types, it may be anything" in WORDS
    for given in ("b", 7, None, [1]):
        inputs.check({"x": given})


def test_earlier_end_under_condition_rules_null_out() -> None:
    stops = step("stop", condition="{{steps.a.x}} == null", end={"outcome": "refused"})
    maybe = step("a", condition="{{input.n}} > 1", **SET)
    uses = step("b", set={"text": "no {{steps.a.x}}"})

    assert "An earlier end under such a condition is enough, too" in WORDS
    assert definition.check(of(maybe, stops, uses)) == []
    assert run_of(of(maybe, stops, uses), n=0).status == "REFUSED"
    assert run_of(of(maybe, stops, uses), n=2).status == "SUCCEEDED"


def test_missing_path_matters_only_if_result_depends_on_it() -> None:
    given = step("a", set={"x": "{{input.x}}"})
    judges = step("b", condition="{{steps.a.x}} == 1 && {{steps.a.x.y}} == 2", **SET)

    assert "behind a false && it does not" in WORDS
    assert run_of(of(given, judges), x=2).statuses()["b"] == "SKIPPED"
    assert run_of(of(given, judges), x=1).status == "FAILED"


def test_value_with_nul_is_not_judged() -> None:
    text = of(step("a", condition="{{input.x}} == 'Ada'", **SET))

    assert "A value that contains the character U+0000 is not judged" in WORDS
    assert run_of(text, x="Ada\0").status == "FAILED"
    assert run_of(text, x="Ada").status == "SUCCEEDED"


def test_and_and_or_join_any_number_of_parts() -> None:
    condition = " && ".join(["{{input.x}} != 5"] * 200)

    assert "&& and || may join any number" in WORDS
    assert run_of(of(step("a", condition=condition, **SET)), x=1).status == "SUCCEEDED"
