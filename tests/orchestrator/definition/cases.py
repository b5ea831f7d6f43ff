"""Definitions, refused and accepted: in files beside this, each with what is expected of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.orchestrator import definition

HEAD = "id: w\nname: w\nsteps:\n"
# What several of them have.
SHORT = {
    "$CALL": "protocol: web5, operation: resolve_did, input_mapping: {did: d}, output_mapping: {}",
    "$KEEP": "protocol: web5, operation: store_transaction_record,"
    " input_mapping: {did: d, transaction_data: {}}, output_mapping: {}",
    "$PAY": "protocol: bitcoin, operation: send_transaction, input_mapping: {from_address: a},"
    " output_mapping: {}",
}

# What they may run inside themselves.
INNER = (
    """
id: greeting
name: a workflow for others
steps:
  - id: long
    condition: "size({{input.name}}) > 0 && {{input.name}} != ''"
    set: {}
  - id: result
    set: {text: "{{input.name}}"}
""",
    """
id: nested
name: reads members
steps:
  - id: enough
    condition: "{{input.k}} > 2"
    set: {}
  - id: result
    set: {b: "of {{input.a.b}}", k: "{{input.k}}"}
""",
    """
id: anything
name: reads all
steps:
  - id: result
    set: {all: "{{input}}"}
""",
)


def known() -> definition.Operations:
    """All operations, and the workflows above."""
    found = definition.operations()
    for text in INNER:
        found = found.with_workflow(definition.load(text, found))
    return found


def refused(kind: str) -> list[tuple[str, str]]:
    """Definition, with § before its first problem, and the words of that.

    ``kind`` is "texts", "shape" or "sense", as their files say.
    """
    return [(text, words) for words, text in _read(f"refused_{kind}.txt")]


def accepted() -> list[tuple[str, str, dict[str, Any]]]:
    """Definition, how its run ends, and the input of that."""
    cases = []
    for line, text in _read("accepted.txt"):
        end, _, given = line.partition(" ")
        cases.append((text, end, json.loads(given)))
    return cases


def _read(name: str) -> list[tuple[str, str]]:
    text = (Path(__file__).parent / name).read_text()
    for short, long in SHORT.items():
        text = text.replace(short, long)
    _, *cases = text.removesuffix("\n").split("\n====\n")
    return [
        (line, _whole(written)) for line, _, written in (case.partition("\n") for case in cases)
    ]


def _whole(written: str) -> str:
    """Steps alone are those of a definition, the first of them in line 4."""
    if not written.startswith(("- {", "- §{")):
        return written
    return HEAD + "".join(f"  {line}\n" for line in written.splitlines())
