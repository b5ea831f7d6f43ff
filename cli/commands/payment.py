"""`anya payment`: payments that were sent, looked at, followed and cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from anya.orchestrator.v1 import payment_pb2
    from cli.connection import Channels

app = typer.Typer(help="Payments that were sent: show, follow, cancel.", no_args_is_help=True)

PaymentArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PAYMENT", help="Its id; of one sent alone, also its run's.")
]


@app.command("show")
def show_payment(
    payment_id: PaymentArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Show all that is known of a payment, also while bitcoin does not answer."""
    from functools import partial

    from cli import payment_client
    from cli.connection import ask
    from cli.home import Home

    _show(ask(Home.of(home), partial(payment_client.get, payment_id=payment_id)), json=json)


@app.command("watch", epilog="Example: anya payment watch PAYMENT --confirmations 1")
def watch_payment(
    payment_id: PaymentArgument,
    confirmations: Annotated[
        int, typer.Option(min=0, max=100, help="Go on until it has so many, or is settled.")
    ] = 0,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Follow a payment; exit code 3 if it is refused. Under --json one line per change."""
    from cli import payment_client, payment_view, screen
    from cli.connection import ask
    from cli.home import Home

    async def follow(channels: Channels) -> payment_pb2.Payment:
        last = ""
        async for payment in payment_client.watch(
            channels, payment_id, confirmations=confirmations
        ):
            line = payment_view.progress(payment)
            if json:
                _show(payment, json=True)
            elif line != last:
                screen.show(last := line)
        return payment

    payment = ask(Home.of(home), follow)
    if not json:
        _show(payment)
    raise typer.Exit(payment_view.exit_code(payment))


@app.command("cancel")
def cancel_payment(
    payment_id: PaymentArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Have a payment refused for ever. Exit code 3 if it is signed already: then it stays."""
    from functools import partial

    from cli import payment_client, payment_view, screen
    from cli.connection import ask
    from cli.errors import OK, REFUSED
    from cli.home import Home

    payment = ask(Home.of(home), partial(payment_client.cancel, payment_id=payment_id))
    is_cancelled = payment_view.state_word(payment) == "cancelled"
    if not json and not is_cancelled:
        screen.show("not cancelled: it is signed, and stays as it is")
    _show(payment, json=json)
    raise typer.Exit(OK if is_cancelled else REFUSED)


def _show(payment: payment_pb2.Payment, *, json: bool = False) -> None:
    from cli import payment_view, screen

    if json:
        screen.emit(payment_view.document(payment))
        return
    for line in payment_view.lines(payment):
        screen.show(line)
