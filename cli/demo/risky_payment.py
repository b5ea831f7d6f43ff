"""Scene: the same payer, identity and amount, but to the scam that most people fell for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import payment_client
from cli.demo.scene import Scene, factor_lines
from cli.demo.stage import AMOUNT_SAT

if TYPE_CHECKING:
    from cli.demo.stage import Stage


async def play(stage: Stage) -> Scene:
    before = await stage.payments_to(stage.scam)
    proposing = payment_client.propose(stage.channels, stage.payer, stage.scam, AMOUNT_SAT)
    outcome = payment_client.outcome(await stage.run(proposing))
    broadcast = len(await stage.payments_to(stage.scam) - before)
    signed = await stage.was_signed(outcome.run_id)
    document = {
        "name": "risky_payment",
        "status": outcome.status,
        "reason": outcome.reason,
        "broadcast": broadcast,
        "risk_score": outcome.risk_score,
    }
    lines = [f"{AMOUNT_SAT} sat to {stage.scam}: {outcome.reason}"]
    if outcome.risk_score is not None:
        lines += [f"risk score {outcome.risk_score:.3f}; what moved it most, in log-odds:"]
        lines += factor_lines(outcome)
    return Scene(document, lines, {"nothing is broadcast": not broadcast, "nor signed": not signed})
