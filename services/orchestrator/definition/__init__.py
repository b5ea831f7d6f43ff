"""Workflow definitions: reads them and checks them against the contracts, without a mesh."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.orchestrator.definition.ast import SubWorkflowNode, all_nodes
from services.orchestrator.definition.check import check_workflow
from services.orchestrator.definition.json_source import read_json
from services.orchestrator.definition.operations import Operations, declared_operations
from services.orchestrator.definition.parser import parse_workflow
from services.orchestrator.definition.problems import DefinitionInvalidError, Problem
from services.orchestrator.definition.yaml_source import read_yaml

if TYPE_CHECKING:
    from services.orchestrator.definition.source import Source
    from services.orchestrator.definition.workflow import Workflow

__all__ = [
    "BUILT_IN",
    "DefinitionInvalidError",
    "Operations",
    "Problem",
    "check",
    "load",
    "operations",
    "read",
    "references",
]

FOLDER = Path(__file__).parents[1] / "workflows"

# Registered at each start, in this order: a workflow may use the earlier ones as operations.
BUILT_IN = ("assess_fraud_risk", "link_address", "verified_payment")


def check(text: str, known: Operations | None = None) -> list[Problem]:
    """Returns all problems of a definition, in order of position."""
    try:
        load(text, known)
    except DefinitionInvalidError as error:
        return list(error.problems)
    return []


def load(text: str, known: Operations | None = None) -> Workflow:
    """Compiles a definition; ``known`` defaults to all operations.

    Raises DefinitionInvalidError if it has problems.
    """
    source = read(text)
    return check_workflow(source, parse_workflow(source), known or operations())


def references(text: str) -> tuple[str, ...]:
    """Returns the ids of the workflows that the steps run, known or not.

    Raises DefinitionInvalidError if the definition breaks the grammar.
    """
    steps = all_nodes(parse_workflow(read(text)).steps)
    actions = [step.action for step in steps]
    used = [action.workflow for action in actions if isinstance(action, SubWorkflowNode)]
    return tuple(dict.fromkeys(used))


def read(text: str) -> Source:
    """Reads JSON if the text begins with ``{``, otherwise YAML.

    Raises DefinitionInvalidError if it is neither.
    """
    return read_json(text) if text.lstrip()[:1] == "{" else read_yaml(text)


@cache
def operations() -> Operations:
    """Returns the operations of the contracts and the built-in workflows.

    Built-in workflows that never pay are operations, too.
    """
    known = declared_operations()
    for name in BUILT_IN:
        workflow = load(built_in_text(name), known)
        known = known.with_workflow(workflow)
        if not workflow.pivots:
            known = known.with_composite(workflow)
    return known


@cache
def built_in_text(name: str) -> str:
    """Returns the definition of a built-in workflow, which is JSON."""
    return (FOLDER / f"{name}.json").read_text()
