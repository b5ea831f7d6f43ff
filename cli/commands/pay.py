"""`anya pay`: one verified payment from a DID whose key is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from cli.connection import Channels
    from cli.payment import Outcome

MAX_SAT = 21_000_000 * 100_000_000  # as mesh.attestation, which takes long to import
CONFIRM_WITHIN = 5.0  # seconds; a mesh that mines by itself needs two


def pay(
    sender: Annotated[str, typer.Option("--from", metavar="DID", help="Its key is in client/.")],
    to: Annotated[str, typer.Option(metavar="ADDRESS", help="Who is paid.")],
    amount_sat: Annotated[int, typer.Option(min=1, max=MAX_SAT, help="Satoshis, without the fee.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Pay with proof: identity, address, risk, coins, record. Exit code 3 if it is refused."""
    from dataclasses import asdict

    from cli import payment, runs, screen
    from cli.connection import ask, traced
    from cli.home import Home
    from cli.identities import Identities

    chosen = Home.of(home)

    async def work(channels: Channels) -> tuple[int, Outcome, int]:
        payer = Identities(chosen).find(sender)
        with traced("pay"):
            proposal = await payment.propose(channels, payer, to, amount_sat)
            with payment.naming_the_run(proposal):
                started = await payment.start(channels, proposal)
        with payment.naming_the_run(proposal):
            run = await runs.finish(channels, started.run_id, screen.say)
        outcome = payment.outcome(run)
        depth = 0
        if outcome.txid:
            depth = await payment.confirmations(channels, outcome.txid, within=CONFIRM_WITHIN)
        return runs.exit_code(run), outcome, depth

    code, outcome, depth = ask(chosen, work)
    if json:
        screen.emit({**asdict(outcome), "confirmations": depth})
    else:
        _print(outcome, depth)
    raise typer.Exit(code)


def _print(outcome: Outcome, confirmations: int) -> None:
    from cli import screen

    print_line = screen.results().print
    print_line(f"{outcome.status.lower()}: run {outcome.run_id}")
    if outcome.reason:
        print_line(f"  because {outcome.reason}", markup=False)
    if outcome.risk_score is not None:
        print_line(f"  risk score     {outcome.risk_score:.3f}")
    if outcome.txid:
        print_line(f"  txid           {outcome.txid}")
        print_line(f"  confirmations  {confirmations}")
    if outcome.record_id:
        print_line(f"  record         {outcome.record_id}")
    print_line(f"  trace          {outcome.trace_id}  (anya trace show {outcome.trace_id[:8]})")
