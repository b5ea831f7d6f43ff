"""`anya pay`: one verified payment from a DID whose key is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.commands.options import HomeOption, JsonOption
from formats.money import MAX_SAT

if TYPE_CHECKING:
    from anya.orchestrator.v1 import payment_pb2
    from cli.connection import Channels

EXAMPLE = "Example: anya pay --from payer --to ADDRESS --amount-sat 1000000"
CONFIRM_TIMEOUT_S = 5.0  # a mesh that mines by itself needs two


def pay(
    sender: Annotated[
        str,
        typer.Option(
            "--from", metavar="PAYER", help="Name or DID of the payer, whose key is in client/."
        ),
    ],
    to: Annotated[str, typer.Option(metavar="ADDRESS", help="Address of the recipient.")],
    amount_sat: Annotated[
        int, typer.Option(min=1, max=MAX_SAT, help="Amount in satoshi, without the fee.")
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Pay with proof: identity, address, risk, coins, record. Exit code 3 if refused."""
    from cli import payment_client, payment_view, screen
    from cli.connection import ask, traced
    from cli.home import Home
    from cli.identities import Identities

    chosen = Home.of(home)

    async def work(channels: Channels) -> payment_pb2.Payment:
        payer = Identities(chosen).find(sender)
        with traced("pay"):
            proposal = await payment_client.propose(channels, payer, to, amount_sat)
            with payment_client.naming_it(proposal):
                await payment_client.send(channels, proposal)
        with payment_client.naming_it(proposal):
            return await payment_client.finish(
                channels,
                proposal.intent.payment_id,
                confirm_within=CONFIRM_TIMEOUT_S,
                say=screen.say,
            )

    paid = ask(chosen, work)
    if json:
        screen.emit(_document(paid))
    else:
        for line in payment_view.lines(paid):
            screen.show(line)
    raise typer.Exit(payment_view.exit_code(paid))


def _document(paid: payment_pb2.Payment) -> dict[str, Any]:
    """Returns the payment for programs; what it did not get to is empty or null."""
    from cli import payment_view, runs

    known = payment_view.document(paid)
    return {
        "run_id": paid.payment_id,
        "status": runs.status_word(paid.run_status),
        "reason": paid.reason,
        "trace_id": paid.trace_id,
        "txid": known["txid"] or "",
        "state": known["state"],
        "confirmations": paid.confirmations,
        "record_tenant": paid.record_tenant,
        "record_id": paid.record_id,
        "risk_score": known["risk_score"],
        "risk_factors": known["risk_factors"],
    }
