"""Scene: a payer proves who it is, a merchant is paid, and the record says so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cli import payment_client
from cli.demo.scene import Scene, factor_lines, factors
from cli.demo.stage import AMOUNT_SAT
from cli.home import SERVICES

if TYPE_CHECKING:
    from cli.demo.stage import Stage
    from cli.payment_client import Outcome


async def play(stage: Stage) -> Scene:
    before = await stage.payments_to(stage.licit)
    began = time.monotonic()
    proposing = payment_client.propose(stage.channels, stage.payer, stage.licit, AMOUNT_SAT)
    outcome = payment_client.outcome(await stage.run(proposing))
    seconds = time.monotonic() - began
    depth = 0
    if outcome.txid:
        await stage.mine()
        depth = await payment_client.confirmations(stage.channels, outcome.txid, within=5)
    paid = len(await stage.payments_to(stage.licit) - before)
    is_recorded = await _is_recorded(stage, outcome)
    trace = await stage.trace(outcome.trace_id, through=SERVICES if outcome.txid else ())
    services = [name for name in trace.services if name in SERVICES]
    document = {
        "name": "verified_payment",
        "status": outcome.status,
        "run_id": outcome.run_id,
        "txid": outcome.txid,
        "confirmations": depth,
        "record_id": outcome.record_id,
        "risk_score": outcome.risk_score,
        "risk_factors": factors(outcome),
        "trace_id": outcome.trace_id,
        "services": services,
        "seconds": round(seconds, 3),
    }
    claims = {
        "the merchant is paid once": paid == 1,
        "the payment confirms": depth > 0,
        "the payer can read its record": is_recorded,
        "the trace is whole": trace.is_whole or not stage.keeps_traces,
    }
    return Scene(document, [*_lines(stage, outcome), f"in {seconds * 1000:.0f} ms"], claims, trace)


async def _is_recorded(stage: Stage, outcome: Outcome) -> bool:
    """Returns True if the payer can read the record and it is the record of this payment."""
    if not outcome.record_id:
        return False
    record = await payment_client.read_record(stage.channels, stage.payer, outcome)
    return record is not None and record.get("bitcoin_txid") == outcome.txid


def _lines(stage: Stage, outcome: Outcome) -> list[str]:
    if outcome.status != "SUCCEEDED":
        return [outcome.reason]
    return [
        f"{stage.payer.did[:32]}… proved itself and its address {stage.payer.addresses[0]}",
        f"{AMOUNT_SAT} sat to {stage.licit}",
        f"risk score {outcome.risk_score:.3f}; what moved it most, in log-odds:",
        *factor_lines(outcome),
        f"txid   {outcome.txid}",
        f"record {outcome.record_id}, read back by the payer",
        f"trace  {outcome.trace_id}",
    ]
