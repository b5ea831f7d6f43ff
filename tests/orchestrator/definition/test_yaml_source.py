"""YAML is read as the JSON it stands for, or refused if it is ambiguous."""

from __future__ import annotations

import io
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from services.orchestrator import definition
from services.orchestrator.definition.problems import DefinitionInvalidError, Problem
from services.orchestrator.definition.source import MAX_SOURCE_BYTES
from services.orchestrator.definition.yaml_source import read_yaml
from tests.orchestrator.definition.definitions import SEED, seed
from tests.profile import examples


def dump(value: object) -> str:
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump(value, stream)
    return stream.getvalue()


def test_definition_has_same_hash_in_yaml_and_json() -> None:
    assert definition.load(dump(seed())).hash == definition.load(SEED).hash


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: expected a definition"),
        ("a: 1\na: 2", "2:1: duplicate key 'a'"),
        ("a:\nb: 1", "1:1: 'a' has no value; write null or '' for nothing"),
        ("a: yes", "1:4: 'yes' is ambiguous: write it as JSON does, or in quotes"),
        ("a: 0x1F", "1:4: '0x1F' is ambiguous: write it as JSON does, or in quotes"),
        ("a: 1_000", "1:4: '1_000' is ambiguous: write it as JSON does, or in quotes"),
        ("a: 2026-01-31", "1:4: '2026-01-31' is ambiguous: write it as JSON does, or in quotes"),
        ("a: &x 1", "1:4: anchors and aliases are not read: write the value out"),
        ("a: !!str 1", "1:4: tags are not read: leave it out"),
        ("1: a", "1:1: a key must be a text: write it in quotes"),
        ("a: {<<: {b: 1}}", "1:5: merge keys are not read: write the members out"),
        ("[a]: b", "1:1: a key must be a text: write it in quotes"),
        ("a: 1\n---\nb: 2", "3:1: nothing may follow the definition"),
        (
            "a: 9007199254740993",
            "1:4: number out of range: integers reach from -(2^53 - 1) to 2^53 - 1",
        ),
        ("a: 1e999", "1:4: number out of range: integers reach from -(2^53 - 1) to 2^53 - 1"),
        ('a: "\\ud800"', "1:4: half of a surrogate pair is no character"),
        ("a: \x01", "1:4: a character that YAML does not allow"),
        ("[" * 100, "1:34: nested deeper than 32 levels"),
        ("a" * (MAX_SOURCE_BYTES + 1), "1:1: longer than 256 KiB"),
    ],
    ids=lambda value: value[:20],
)
def test_problem_has_line_and_column(text: str, problem: str) -> None:
    with pytest.raises(DefinitionInvalidError) as caught:
        read_yaml(text)

    assert [str(found) for found in caught.value.problems] == [problem]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: xy{{z}}", Problem(1, 6, "here")),
        ("a: 'xy{{z}}'", Problem(1, 7, "here")),
        ('a:\n  "xy{{z}}"', Problem(2, 6, "here")),
        ("a: |\n  xy{{z}}", Problem(2, 5, "here")),
        ("a: |-\n\n    x\n    y {{z}}", Problem(4, 7, "here")),
        ("a: >\n  xy\n  zz {{z}}", Problem(3, 6, "here")),
        ("a: 'it''s\n  so {{z}}'", Problem(2, 6, "here")),
        ('a: "x\\\n  y\\t {{z}}"', Problem(2, 7, "here")),
        ("a: x\n  y {{z}}", Problem(2, 5, "here")),
    ],
)
def test_position_inside_string_is_where_it_is_written(text: str, place: Problem) -> None:
    document = read_yaml(text)

    assert document.problem(("a",), "here", offset=document.at(("a",)).index("{{")) == place


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc xyz", min_size=1), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON)
def test_json_is_read_as_the_same_value(value: object) -> None:
    assert read_yaml(json.dumps(value)).value == value


@settings(deadline=None, max_examples=examples(300))
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%#,? \n\t01.~\x00\x85"), max_size=40))
def test_any_text_is_read_or_refused_at_a_position(text: str) -> None:
    try:
        read_yaml(text)
    except DefinitionInvalidError as error:
        (problem,) = error.problems
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.column >= 1


def test_large_yaml_is_refused_unread_and_the_same_json_is_not() -> None:
    text = "id: e\nname: e\nsteps:\n" + "  - {id: a, set: {x: 1}}\n" * 3000

    began = time.process_time()
    (problem,) = definition.check(text)

    assert problem.message == "YAML longer than 64 KiB: write it as JSON"
    assert time.process_time() - began < 0.05


def test_yaml_of_too_many_values_is_refused() -> None:
    (problem,) = definition.check("x: [" + "[]," * 20_000 + "]")

    assert problem.message == "more than 10000 values: write it as JSON"
