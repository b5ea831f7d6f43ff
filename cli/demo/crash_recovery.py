"""Scene: the orchestrator dies between broadcast and record, and pays once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import payment_client
from cli.demo.scene import Scene
from cli.demo.stage import AMOUNT_SAT
from cli.supervisor import control

if TYPE_CHECKING:
    from cli.demo.stage import Stage

SERVICE = "orchestrator"


async def play(stage: Stage) -> Scene:
    before = await stage.payments_to(stage.licit)
    payment_id = payment_client.new_id()
    point = f"engine.before_step_done/{payment_id}/execute_payment=kill"
    await control.request(stage.home, "restart", service=SERVICE, failpoints=point)
    await stage.channels[SERVICE].channel_ready()  # it was restarted: dial it again
    crashes = await _restarts(stage)
    proposing = payment_client.propose(
        stage.channels, stage.payer, stage.licit, AMOUNT_SAT, payment_id=payment_id
    )
    run = await stage.run(proposing)
    restarts = await _restarts(stage) - crashes
    await stage.mine()
    broadcast = len(await stage.payments_to(stage.licit) - before)
    outcome = payment_client.outcome(run)
    trace = await stage.trace(run.trace_id, answered=False)
    document = {
        "name": "crash_recovery",
        "status": outcome.status,
        "broadcast": broadcast,
        "restarts": restarts,
        "txid": outcome.txid,
    }
    lines = [
        f"the orchestrator was killed after the broadcast, and restarted {restarts} time",
        f"payments to {stage.licit}: {broadcast}",
        f"txid   {outcome.txid}",
        f"trace  {run.trace_id}: {len(trace.spans)} spans, {len(trace.orphans)} orphans",
    ]
    claims = {
        "the merchant is paid once": broadcast == 1,
        "the orchestrator crashed once": restarts == 1,
        "the trace has no orphans": trace.is_whole or not stage.keeps_traces,
    }
    return Scene(document, lines, claims, trace)


async def _restarts(stage: Stage) -> int:
    status = await control.request(stage.home, "status")
    return int(status["services"][SERVICE]["restarts"])
