"""Reads the definitions in the text files here, each with the result that is expected of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.orchestrator import definition

HEAD = "id: w\nname: w\nsteps:\n"
# Abbreviations in these files.
SHORT = {
    "$CALL": "protocol: web5, operation: resolve_did, input_mapping: {did: d}, output_mapping: {}",
    "$KEEP": "protocol: web5, operation: store_transaction_record,"
    " input_mapping: {did: d, transaction_data: {}}, output_mapping: {}",
    "$PAY": "protocol: bitcoin, operation: send_transaction, input_mapping: {from_address: a},"
    " output_mapping: {}",
}

# Workflows that the definitions can run.
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
    """Returns all operations, and the workflows above."""
    found = definition.operations()
    for text in INNER:
        found = found.with_workflow(definition.load(text, found))
    return found


def refused(kind: str) -> list[tuple[str, str]]:
    """Returns definitions, with § before the first problem, and the words its message begins with.

    ``kind`` is "texts", "grammar" or "checks", as their files say.
    """
    return [(text, words) for words, text in _read(f"refused_{kind}.txt")]


def accepted() -> list[tuple[str, str, dict[str, Any]]]:
    """Returns definitions, how their runs end, and the inputs of the runs."""
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
    """Returns a whole definition: lone steps get a head, so that the first is in line 4."""
    if not written.startswith(("- {", "- §{")):
        return written
    return HEAD + "".join(f"  {line}\n" for line in written.splitlines())
