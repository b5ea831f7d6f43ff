"""A definition that the mesh cannot run is refused, with the position of each problem."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator import definition
from services.orchestrator.definition.operations import CONTRACTS
from services.orchestrator.definition.templates import parse_path
from tests.orchestrator.definition.definitions import SEED, one_step, seed, spoiled
from tests.profile import examples

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("name", definition.BUILT_IN)
def test_built_in_definition_has_no_problems(name: str) -> None:
    assert definition.check(definition.built_in_text(name)) == []


def test_input_has_type_of_first_field_it_is_mapped_to() -> None:
    inputs = definition.load(SEED).inputs

    assert {str(path): str(type) for path, type in inputs.declared.items()} == {
        "input.sender_did": "a string",
        "input.recipient_address": "a string",
        "input.amount": "an integer",
        "input.sender_address": "a string",
    }


def test_hash_is_that_of_canonical_form() -> None:
    respaced = json.dumps(dict(reversed(seed().items())))

    assert definition.load(respaced).hash == definition.load(SEED).hash
    assert definition.load(SEED).hash == (
        "1de56722022411d0835a27beb8ea18b85ef7142bc6f784a738a41812bfcd2bf6"
    )


SPOILS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda d: d["steps"][0].update(operation="verify_identitty"),
        "unknown operation 'verify_identitty'; did you mean verify_identity?",
    ),
    (
        lambda d: d["steps"][1].update(protocol="bitcoin"),
        "assess_fraud_risk is an operation of ml, not 'bitcoin'",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(fee=1),
        "unknown field 'fee'; known: from_address, to_address, amount, metadata, max_fee_sat",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(amount_sat=1),
        "unknown field 'amount_sat'; known: from_address, to_address, amount,",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(context={}),
        "only the engine sets context: leave it out",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(request_id="x"),
        "only the engine sets request_id: leave it out",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(amount="{{steps.verify_sender.missing}}"),
        "step verify_sender has no output 'missing'; it has sender_verified,",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(
            amount="{{steps.verify_sender.verification_score}}"
        ),
        "steps.verify_sender.verification_score is a number, not an integer",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(amount="{{input.sender_did}}"),
        "input.sender_did is a string, not an integer",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(amount="50 sat"),
        "must be an integer",
    ),
    (
        lambda d: d["steps"][2]["input_mapping"].update(amount="{{input.a}} sat"),
        "a text cannot be an integer",
    ),
    (
        lambda d: d["steps"][1]["input_mapping"].pop("amount"),
        "amount is missing: the operation needs it",
    ),
    (
        lambda d: d["steps"][0]["input_mapping"].update(did="{{steps.execute_payment.status}}"),
        "step execute_payment comes later: only earlier steps can be read",
    ),
    (
        lambda d: d["steps"][0]["input_mapping"].update(did="{{steps.verify_sender._status}}"),
        "step verify_sender cannot read its own outputs here",
    ),
    (
        lambda d: d["steps"][0]["input_mapping"].update(did="{{steps.missing.x}}"),
        "unknown step 'missing'; earlier steps: none",
    ),
    (
        lambda d: d["steps"][0]["input_mapping"].update(did="{{output.verified}}"),
        "output can be read in output_mapping only",
    ),
    (
        lambda d: d["steps"][0]["input_mapping"].update(did="{{ctx.secret}}"),
        "ctx has workflow_id, run_id, now only",
    ),
    (
        lambda d: d["steps"][0]["output_mapping"].update(x="{{output.missing}}"),
        "output is a VerifyIdentityResponse: it has no 'missing'; it has verified, confidence,",
    ),
    (
        lambda d: d["steps"][0]["output_mapping"].update(x="{{output.attestations}}"),
        "output is a VerifyIdentityResponse: it has no 'attestations'",
    ),
    (
        lambda d: d["steps"][0]["output_mapping"].update(_status="{{output.verified}}"),
        "'_status' must be 1 to 48 of a-z, 0-9 and _",
    ),
    (
        lambda d: d["steps"][2].update(condition="{{steps.fraud_assessment.risk_score}}"),
        "a condition must be true or false",
    ),
    (
        lambda d: d["steps"][2].update(condition="{{steps.execute_payment.status}} == 'x'"),
        "step execute_payment cannot read its own outputs here",
    ),
    (
        lambda d: d["steps"][1].update(condition="{{input.amount}} < 0.7"),
        "found no matching overload for '_<_' applied to '(int, double)'",
    ),
    (
        lambda d: d["steps"][1].update(id="verify_sender"),
        "another step is called verify_sender",
    ),
    (lambda d: d["steps"][0].update(id="in"), "'in' is reserved by the language of conditions"),
    (lambda d: d["steps"][0].update(retries=3), "unknown key 'retries'; known: id, protocol,"),
    (lambda d: d["steps"][0].pop("output_mapping"), "output_mapping is missing"),
    (lambda d: d.update(steps=[]), "must be a list of 1 to 100 steps"),
    (lambda d: d.update(id="Verified-Payment"), "'Verified-Payment' must be 1 to 48 of"),
    (
        lambda d: d["steps"].append(d["steps"][2] | {"id": "again"}),
        "a workflow pays once at most, this one may pay twice",
    ),
]


@pytest.mark.parametrize(("change", "message"), SPOILS, ids=[message for _, message in SPOILS])
def test_spoiled_definition_is_refused_with_reason(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    problems = definition.check(spoiled(change))

    assert any(problem.message.startswith(message) for problem in problems), problems


def test_problem_points_at_line_and_column_of_path() -> None:
    text = SEED.replace("{{input.amount}}", "{{input.amount}}{{steps.later.x}}", 1)
    line = 1 + text[: text.index("{{steps.later.x}}")].count("\n")

    found = [problem for problem in definition.check(text) if "later" in problem.message]

    assert [(problem.line, problem.column) for problem in found] == [
        (line, text.splitlines()[line - 1].index("{{steps.later.x}}") + 1)
    ]


def test_all_problems_are_reported_at_once_in_order() -> None:
    def change(d: dict[str, Any]) -> None:
        d["steps"][0]["operation"] = "nothing"
        d["steps"][3]["condition"] = "{{steps.execute_payment.missing}} == 1"
        d["steps"][2]["input_mapping"]["amount"] = "{{input.sender_did}}"

    problems = definition.check(spoiled(change))

    assert problems == sorted(problems)
    assert len(problems) == 3


def test_check_accepts_paths_that_only_run_can_judge() -> None:
    text = json.dumps(one_step(condition="{{input.anything}} == 'x'"))

    assert definition.check(text) == []


def test_output_of_step_that_may_be_skipped_may_be_null() -> None:
    maybe = seed()
    maybe["steps"][0]["condition"] = "{{input.sender_did}} != 'x'"
    maybe["steps"][2]["condition"] = "{{steps.verify_sender.sender_verified}}"

    problems = definition.check(json.dumps(maybe))

    assert [problem.message for problem in problems] == [
        "steps.verify_sender.verification_score may be null: a number is needed;"
        " give the step the condition {{steps.verify_sender.verification_score}} != null",
        "a condition must be true or false; compare it: == true, > 0, ...",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "sender_did must be given"),
        ({"payee": 1}, "payee must be left out: the inputs are sender_did, recipient_address,"),
        ({"sender_did": 1}, "sender_did must be a string"),
        ({"amount": "5"}, "amount must be an integer"),
    ],
    ids=str,
)
def test_input_is_checked_against_what_steps_read(changed: dict[str, Any], message: str) -> None:
    inputs = definition.load(SEED).inputs
    good = {"sender_did": "d", "sender_address": "s", "recipient_address": "r", "amount": 5}
    spoiled = good | changed if changed else good | {"sender_did": None}
    if not changed:
        spoiled.pop("sender_did")

    inputs.check(good)
    with pytest.raises(ValueError, match=message):
        inputs.check(spoiled)


def test_every_contract_with_operations_is_known() -> None:
    known = {contract.DESCRIPTOR.name for contract in CONTRACTS}
    protos = Path(__file__).parents[3] / "protos"
    with_operations = {
        str(path.relative_to(protos))
        for path in protos.rglob("*.proto")
        if re.search(r'operation\) = \{\s+name: "', path.read_text())
    }

    assert with_operations == known


def test_path_prints_as_it_was_written() -> None:
    path = parse_path(" steps.a.list[0].b ")

    assert str(path) == "steps.a.list[0].b"
    assert path is not None
    assert path.variable == "steps.a.list._0.b"


def pointers(value: object, pointer: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Yields the pointer of every value of a document."""
    found = [pointer]
    members: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        members = list(value.items())
    elif isinstance(value, list):
        members = list(enumerate(value))
    for key, item in members:
        found += pointers(item, (*pointer, key))
    return found


STRANGE: st.SearchStrategy[object] = st.sampled_from(
    [
        *(None, True, 7, -1, 0.5, "", " ", "{{", "{{}}", "{{input}}", "{{steps}}", "{{steps[0]}}"),
        *("{{output}}", "{{output[0].x}}", "{{ctx}}", "{{input[3]}}", "{{input.a[0].b}}", "x}}"),
        *("{{steps.verify_sender}}", "{{steps.verify_sender[0]}}", "a{{steps.verify_sender}}b"),
        *("{{steps.fraud_assessment.risk_factors[0].kind}} == 'model'", "true", "1 == 1"),
        *(
            [],
            {},
            [[]],
            {"a": {}},
            {"": 1},
            ["{{input.x}}"],
            {"a": ["{{steps.missing.x}}"]},
            "\x00",
        ),
    ]
)


@settings(deadline=None, max_examples=examples(300))
@given(st.lists(st.tuples(st.integers(0, 200), STRANGE), min_size=1, max_size=3))
def test_no_change_to_a_definition_breaks_the_check(
    changes: list[tuple[int, object]],
) -> None:
    document: Any = seed()
    for at, strange in changes:
        places = pointers(document)
        pointer = places[at % len(places)]
        if not pointer:
            document = copy.deepcopy(strange)
            continue
        parent = document
        for part in pointer[:-1]:
            parent = parent[part]
        parent[pointer[-1]] = copy.deepcopy(strange)

    text = json.dumps(document)
    lines = text.splitlines()
    for problem in definition.check(text):
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.message
