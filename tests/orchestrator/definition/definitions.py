"""Definitions for tests: the built-in payment, and ways to spoil it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from services.orchestrator.definition import built_in_text

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = built_in_text("verified_payment")


def seed() -> dict[str, Any]:
    definition: dict[str, Any] = json.loads(SEED)
    return definition


def spoiled(change: Callable[[dict[str, Any]], object]) -> str:
    """Returns the built-in payment after ``change``, one key a line."""
    definition = seed()
    change(definition)
    return json.dumps(definition, indent=2)


def one_step(**changes: Any) -> dict[str, Any]:
    """Returns a workflow of one step, ``look_up``, with some of its keys changed."""
    step = {
        "id": "look_up",
        "protocol": "bitcoin",
        "operation": "get_payment",
        "input_mapping": {"payment_id": "{{input.payment_id}}"},
        "output_mapping": {"found": "{{output.payment}}"},
    }
    return {"id": "example", "name": "example", "steps": [step | changes]}
