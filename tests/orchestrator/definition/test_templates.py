"""Templates keep types, become text only inside text, and never read a missing value as empty."""

from __future__ import annotations

from typing import Any

import pytest

from services.orchestrator.definition.templates import (
    TemplateSyntaxError,
    UnresolvedPathError,
    parse_template,
    resolve,
)

SCOPE: dict[str, Any] = {
    "input": {
        "amount": 50_000,
        "name": "Ann",
        "tags": ["a", {"b": 0.1}],
        "none": None,
        "big": 2**60,
    },
    "steps": {"first": {"score": 1e-7, "verified": True, "_status": "SUCCEEDED"}},
    "ctx": {"run_id": "r1"},
}


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{input.amount}}", 50_000),
        ("  {{ input.amount }}\n", 50_000),
        ("{{input.tags[1].b}}", 0.1),
        ("{{input.tags}}", ["a", {"b": 0.1}]),
        ("{{input.none}}", None),
        ("{{steps.first}}", {"score": 1e-7, "verified": True}),
        ("{{steps.first._status}}", "SUCCEEDED"),
        ("to {{input.name}}: {{input.amount}} sat", "to Ann: 50000 sat"),
        ("{{steps.first.verified}}/{{steps.first.score}}", "true/1e-7"),
        ("{{input.big}}!", "1152921504606846976!"),
        ("x{{input.tags}}", 'x["a",{"b":0.1}]'),
        ("{{{{input.name}}", "{{input.name}}"),
        ("{{ctx.run_id}} ", "r1"),
        (7, 7),
        (None, None),
        ({"{{input.name}}": ["{{input.amount}}"]}, {"{{input.name}}": [50_000]}),
    ],
    ids=repr,
)
def test_template_resolves_to_its_value(template: object, value: object) -> None:
    assert resolve(template, SCOPE) == value


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"a": ["{{input.missing}}"]}, "a.0: input.missing does not exist"),
        ({"a": "{{input.tags[2]}}"}, "a: input.tags[2] does not exist"),
        ({"a": "{{input.none.inner}}"}, "a: input.none.inner does not exist"),
        ({"a": "{{steps.second.score}}"}, "a: steps.second.score does not exist"),
        ({"a": "all {{input}}"}, "a: input holds numbers that JSON cannot hold"),
        ({"a": "for {{input.none}}"}, "a: input.none is null and cannot be part of a text"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_missing_value_raises_error_with_its_path(mapping: object, message: str) -> None:
    with pytest.raises(UnresolvedPathError) as caught:
        resolve(mapping, SCOPE)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "offset"),
    [("ab{{input.x", 2), ("{{input.x}} {{}}", 12), ("{{1+1}}", 0), ("{{env.HOME}}", 0)],
)
def test_malformed_path_is_refused_at_its_offset(text: str, offset: int) -> None:
    with pytest.raises(TemplateSyntaxError) as caught:
        parse_template(text)

    assert caught.value.offset == offset
