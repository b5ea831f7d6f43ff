"""The workflows that our engine is measured with."""

from __future__ import annotations

import json
from typing import Any

FOUR_STEPS = "four_steps"
WAITING = "waiting"
TXID = bytes(range(32))


def _lookup(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "protocol": "bitcoin",
        "operation": "get_transaction",
        "input_mapping": {"txid": "{{input.txid}}"},
        "output_mapping": {"confirmations": "{{output.confirmations}}"},
    }


def _definition(workflow_id: str, *steps: dict[str, Any]) -> str:
    return json.dumps({"id": workflow_id, "name": workflow_id, "steps": steps})


DEFINITIONS = (
    _definition(FOUR_STEPS, *map(_lookup, ("verify", "assess", "pay", "record"))),
    _definition(WAITING, {"id": "answer", "wait_for": {"signal": "approved"}}, _lookup("record")),
)
