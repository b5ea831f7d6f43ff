"""Refused definitions have messages at the right positions; the schema refuses broken grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jsonschema_rs
import pytest

from services.orchestrator import definition
from services.orchestrator.definition.schema import schema
from tests.orchestrator.definition.cases import known, refused

if TYPE_CHECKING:
    from services.orchestrator.definition.problems import Problem

KNOWN = known()
TEXTS, GRAMMAR, CHECKS = refused("texts"), refused("grammar"), refused("checks")
VALIDATOR = jsonschema_rs.validator_for(schema())


def first_problem(marked: str) -> tuple[Problem, tuple[int, int]]:
    """Returns the first problem of a definition, and the line and column that § marks."""
    before, mark, after = marked.partition("§")
    assert mark
    assert "§" not in after
    (problem, *_) = definition.check(before + after, KNOWN)
    return problem, (before.count("\n") + 1, len(before) - before.rfind("\n"))


@pytest.mark.parametrize(
    ("marked", "words"), [*TEXTS, *GRAMMAR, *CHECKS], ids=range(len(TEXTS + GRAMMAR + CHECKS))
)
def test_definition_is_refused_at_its_position_with_message(marked: str, words: str) -> None:
    problem, place = first_problem(marked)

    assert problem.message.startswith(words)
    assert (problem.line, problem.column) == place


@pytest.mark.parametrize(("marked", "words"), GRAMMAR, ids=lambda text: text[-30:])
def test_schema_refuses_definitions_that_break_the_grammar(marked: str, words: str) -> None:
    assert not VALIDATOR.is_valid(definition.read(marked.replace("§", "")).value)


@pytest.mark.parametrize(("marked", "words"), CHECKS, ids=lambda text: text[-30:])
def test_schema_accepts_definitions_that_only_the_check_refuses(marked: str, words: str) -> None:
    VALIDATOR.validate(definition.read(marked.replace("§", "")).value)
