"""Scene: the workflow without its condition pays the scam; the spender has limits of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cli import payment_client, runs
from cli.demo.scene import Scene
from cli.demo.stage import AMOUNT_SAT
from services.orchestrator.definition import built_in_text

if TYPE_CHECKING:
    from cli.demo.stage import Stage

WORKFLOW = "unguarded_payment"


async def play(stage: Stage) -> Scene:
    await runs.register(stage.channels, definition())
    before = await stage.payments_to(stage.scam)
    proposing = payment_client.propose(stage.channels, stage.payer, stage.scam, AMOUNT_SAT)
    run = await stage.run(proposing, workflow_id=WORKFLOW)
    broadcast = len(await stage.payments_to(stage.scam) - before)
    signed = await stage.was_signed(run.run_id)
    document = {
        "name": "unguarded_workflow",
        "status": runs.status_word(run.status),
        "reason": run.reason,
        "broadcast": broadcast,
    }
    lines = [f"{AMOUNT_SAT} sat to {stage.scam}: {run.reason}"]
    return Scene(document, lines, {"nothing is broadcast": not broadcast, "nor signed": not signed})


def definition() -> str:
    """Returns verified_payment without the condition of its payment."""
    workflow = json.loads(built_in_text(payment_client.WORKFLOW))
    for step in workflow["steps"]:
        if step["id"] == "execute_payment":
            del step["condition"]
    workflow["id"] = workflow["name"] = WORKFLOW
    return json.dumps(workflow)
