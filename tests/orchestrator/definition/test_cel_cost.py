"""The cost of a condition is bounded before it is evaluated."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.definition.cel import (
    Condition,
    ConditionInvalidError,
    compile_condition,
)
from services.orchestrator.definition.cel_cost import (
    INLINE_UNITS,
    ConditionTooCostlyError,
    measure,
)
from services.orchestrator.definition.cel_patterns import program_length
from services.orchestrator.definition.types import ANY

UNIT_NS = 20  # what one unit costs at most, see cel_cost.py
SLACK_US = 400  # of one evaluation on a busy machine


def compiled(text: str) -> Condition:
    return compile_condition(text, lambda path, offset: ANY)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (
            "{{input.l}}.all(a, !{{input.s}}.matches('(x|y)*z'))",
            {"l": list(range(9000)), "s": "a" * 1_000_000},
        ),
        ("{{input.l}}.all(a, {{input.l}}.all(b, a + b >= 0))", {"l": list(range(130))}),
        ("{{input.s}}.matches('.{500}.{400}')", {"s": "a" * 10_000}),
        ("{{input.s}}.contains({{input.s}})", {"s": "a" * 30_000}),
        ("{{input.l}}.map(a, {{input.l}}.map(b, b)).size() > 0", {"l": list(range(90))}),
        ("size({{input.s}}" + " + {{input.s}}" * 20 + ") > 0", {"s": "a" * 1000}),
        ("{{input.l}}.all(a, {{input.l}} == {{input.l}})", {"l": list(range(100))}),
        ("{{input.s}} == 'x'", {"s": "a" * 20_000}),
        ("{{input.l}}.all(input, size({{input.s}}) > 0)", {"l": [1] * 90, "s": "a" * 5000}),
        (
            "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, {{input.s}} + 'b' == 'c'))",
            {"s": "a" * 300},
        ),
    ],
)
def test_costly_condition_is_refused_before_it_is_evaluated(
    text: str, given: dict[str, Any]
) -> None:
    condition = compiled(text)
    began = time.process_time()

    with pytest.raises(ConditionTooCostlyError):
        condition.evaluate({"input": given})

    assert time.process_time() - began < 0.01


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("{{input.a}} && {{input.b}} < 0.7", {"a": True, "b": 0.1}),
        ("{{input.l}}.exists(x, x == 'b')", {"l": ["a", "b"]}),
        ("{{input.l}}.all(a, a >= 0)", {"l": list(range(250))}),
        ("{{input.s}}.matches('^[a-z0-9]{1,20}$')", {"s": "abc"}),
        ("{{input.o}}.filter(x, x.n > 1).size() == 1", {"o": [{"n": 1}, {"n": 2}]}),
        ("has({{input.o}}.a) && {{input.o}}['a'] == 1", {"o": {"a": 1}}),
        ("'did:x' in {{input.l}}", {"l": ["did:x", "did:y"] * 20}),
    ],
)
def test_small_condition_is_evaluated_inline(text: str, given: dict[str, Any]) -> None:
    assert compiled(text).evaluate({"input": given}).holds is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'a'.matches({{input.s}})", "must be a text in quotes"),
        ("'a'.matches('(' + 'a)')", "must be a text in quotes"),
        ("{{input.s}}.matches('(a{1000}){1000}')", "repeats too much"),
        ("{{input.s}}.matches('[ab]{1000,}{900}')", "repeats too much"),
        ("{{input.s}}.matches(r'(\\pL{9}){9}')", "repeats too much"),
    ],
)
def test_pattern_is_a_literal_with_bounded_repetition(text: str, message: str) -> None:
    with pytest.raises(ConditionInvalidError, match=message):
        compiled(text)


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("abc", 3, 10),
        ("a{500}", 500, 600),
        ("(ab|c){3}", 9, 40),
        ("(?i)abc", 6, 20),
        (r"\p{Greek}+", 600, 700),
        (r"[^@]+@[a-z0-9.-]+\.[a-z]{2,}", 8, 60),
        ("(((", 3, 20),
        ("a{2,}{3}", 9, 12),
        ("x{", 2, 10),
    ],
)
def test_length_of_a_pattern_counts_each_repetition(pattern: str, least: int, most: int) -> None:
    assert least <= program_length(pattern) <= most


@given(st.text(max_size=40))
def test_any_text_has_a_length_as_a_pattern(pattern: str) -> None:
    assert program_length(pattern) >= 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=30,
)


@given(JSON)
def test_size_of_a_value_is_never_less_than_the_bytes_of_its_texts(value: Any) -> None:
    assert measure(value, 1 << 20).weight >= len(texts_of(value).encode())


def texts_of(value: Any) -> str:
    match value:
        case str():
            return value
        case list():
            return "".join(map(texts_of, value))
        case dict():
            return "".join(map(texts_of, [*value, *value.values()]))
        case _:
            return ""


@pytest.mark.parametrize(
    "text",
    [
        "{{input.l}}.all(a, a + a >= 0)",
        "{{input.l}}.map(a, a + 1).size() > 0",
        "{{input.l}}.filter(a, a > 1).size() > 0",
        "{{input.l}}.exists_one(a, a == -1) == false",
        "{{input.l}}.all(a, a in {{input.l}})",
        "{{input.l}}.all(a, size({{input.s}} + {{input.s}}) > 0)",
        "{{input.s}}.contains('aaaaaaaaaaaaaab') == false",
        "!{{input.s}}.matches('(x|y)*z')",
        "{{input.s}}.matches('.{200}')",
        "!{{input.s}}.matches('a{0,100}b')",
        r"!{{input.s}}.matches(r'\pL+z')",
        "{{input.l}} == {{input.l}} && {{input.l}}.all(a, {{input.l}} == {{input.l}})",
        "{{input.l}}.map(a, {{input.l}}.filter(b, b > a)).size() > 0",
        "{{input.l}}.all(a, string(a) + {{input.s}} != '')",
    ],
)
def test_bound_is_never_less_than_the_cost(text: str) -> None:
    condition = compiled(text)
    given = {"input": {"l": list(range(90)), "s": "a" * 3000}}
    condition.evaluate(given, limit=10**12)
    costs = []
    for _ in range(5):
        began = time.process_time_ns()
        result = condition.evaluate(given, limit=10**12)
        costs.append(time.process_time_ns() - began)

    assert result.holds is True
    assert min(costs) <= result.units * UNIT_NS + SLACK_US * 1000


def test_a_list_is_measured_no_further_than_its_limit() -> None:
    began = time.process_time()
    with pytest.raises(ConditionTooCostlyError):
        measure([["x"] * 10] * 100_000, INLINE_UNITS)

    assert time.process_time() - began < 0.01
