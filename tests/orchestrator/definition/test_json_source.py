"""JSON is read strictly, and every problem has its position."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.definition.json_source import read_json
from services.orchestrator.definition.problems import DefinitionInvalidError, Problem
from services.orchestrator.definition.source import MAX_SOURCE_BYTES

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
).filter(lambda value: "\\ud" not in json.dumps(value))


@given(JSON, st.sampled_from([None, 2]))
def test_reads_json_of_standard_library(value: object, indent: int | None) -> None:
    assert read_json(json.dumps(value, indent=indent, ensure_ascii=False)).value == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: expected a value"),
        ("{", "1:2: expected a key in double quotes"),
        ('{"a": 1,}', "1:9: expected a key in double quotes"),
        ('{"a": 1\n "b": 2}', "2:2: expected ','"),
        ('{"a": 1,\n "a": 2}', "2:2: duplicate key 'a'"),
        ('{"a" 1}', "1:6: expected ':'"),
        ("[1, 2", "1:6: expected ','"),
        ("{} {}", "1:4: nothing may follow the definition"),
        ('{"a": NaN}', "1:7: NaN is not JSON"),
        ('{"a": 1e999}', "1:7: number out of range: integers reach from -(2^53 - 1) to 2^53 - 1"),
        (
            '{"a": 9007199254740993}',
            "1:7: number out of range: integers reach from -(2^53 - 1) to 2^53 - 1",
        ),
        (r'{"a": "\ud800"}', "1:7: half of a surrogate pair is no character"),
        ('{"a": "b\n"}', "1:9: invalid control character at"),
        ("[" * 100, "1:34: nested deeper than 32 levels"),
        ('"' + "a" * MAX_SOURCE_BYTES + '"', "1:1: longer than 256 KiB"),
    ],
    ids=lambda value: value[:20],
)
def test_problem_has_line_and_column(text: str, problem: str) -> None:
    with pytest.raises(DefinitionInvalidError) as caught:
        read_json(text)

    assert [str(found) for found in caught.value.problems] == [problem]


def test_position_inside_string_is_counted_from_its_quote() -> None:
    document = read_json('{\n  "a": ["xy{{z}}"]\n}')

    assert document.problem(("a", 0), "here", offset=2) == Problem(2, 12, "here")
    assert document.key_problem(("a",), "here") == Problem(2, 3, "here")


@pytest.mark.parametrize(
    ("written", "column"),
    [
        (r"\n{{z}}", 10),
        (r"\u0041\\{{z}}", 16),
        (r"\ud83d\ude00{{z}}", 20),
        (r"== \"x\" && {{z}}", 20),
        (r"\/\/ {{z}}", 13),
    ],
)
def test_position_behind_escape_is_where_it_is_written(written: str, column: int) -> None:
    document = read_json(f'{{"a": "{written}"}}')

    found = document.problem(("a",), "here", offset=document.at(("a",)).index("{{"))

    assert found == Problem(1, column, "here")


def test_position_far_inside_string_is_that_of_string() -> None:
    document = read_json(json.dumps("\n" * 9000 + "{{z}}"))

    assert document.problem((), "here", offset=9000) == Problem(1, 1, "here")


@pytest.mark.parametrize("text", ["2.0", "2e0", "20e-1", "2.000"])
def test_whole_number_is_integer_in_every_notation(text: str) -> None:
    assert type(read_json(text).value) is int
