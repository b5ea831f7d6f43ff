"""Restate: the same four steps, which do nothing, as a service that its server calls."""

from __future__ import annotations

from typing import Any

import restate

STEPS = ("verify", "assess", "pay", "record")
four_steps = restate.Service("four_steps")


@four_steps.handler()  # type: ignore[untyped-decorator]
async def run(context: restate.Context, value: dict[str, Any]) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for name in STEPS:

        async def step() -> dict[str, Any]:
            return {"txid": value["txid"], "confirmations": 1}

        steps[name] = await context.run_typed(name, step)
    return steps


app = restate.app([four_steps])
