"""What is wrong with a definition is told where it stands, in words; and the schema tells its
shape."""

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
TEXTS, SHAPE, SENSE = refused("texts"), refused("shape"), refused("sense")
VALIDATOR = jsonschema_rs.validator_for(schema())


def first_problem(marked: str) -> tuple[Problem, tuple[int, int]]:
    """The first problem of a definition, and the line and column that § marks."""
    before, mark, after = marked.partition("§")
    assert mark
    assert "§" not in after
    (problem, *_) = definition.check(before + after, KNOWN)
    return problem, (before.count("\n") + 1, len(before) - before.rfind("\n"))


@pytest.mark.parametrize(
    ("marked", "words"), [*TEXTS, *SHAPE, *SENSE], ids=range(len(TEXTS + SHAPE + SENSE))
)
def test_a_definition_is_refused_at_its_place_in_words(marked: str, words: str) -> None:
    problem, place = first_problem(marked)

    assert problem.message.startswith(words)
    assert (problem.line, problem.column) == place


@pytest.mark.parametrize(("marked", "words"), SHAPE, ids=lambda text: text[-30:])
def test_the_schema_refuses_what_is_out_of_shape(marked: str, words: str) -> None:
    assert not VALIDATOR.is_valid(definition.read(marked.replace("§", "")).value)


@pytest.mark.parametrize(("marked", "words"), SENSE, ids=lambda text: text[-30:])
def test_the_schema_leaves_the_sense_to_the_check(marked: str, words: str) -> None:
    VALIDATOR.validate(definition.read(marked.replace("§", "")).value)
