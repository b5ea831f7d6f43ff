"""`anya payment`: payments that were sent, looked at, followed and cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from anya.orchestrator.v1 import payment_pb2
    from cli.connection import Channels

app = typer.Typer(help="Payments: show, watch, cancel.", no_args_is_help=True)

PaymentArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="PAYMENT", help="Id of the payment.")
]


@app.command("show")
def show_payment(
    payment_id: PaymentArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Show a payment; works also while the bitcoin service is down."""
    from functools import partial

    from cli import payment_client
    from cli.connection import ask
    from cli.home import Home

    _show(ask(Home.of(home), partial(payment_client.get, payment_id=payment_id)), json=json)


@app.command("watch", epilog="Example: anya payment watch PAYMENT --confirmations 1")
def watch_payment(
    payment_id: PaymentArgument,
    confirmations: Annotated[
        int, typer.Option(min=0, max=100, help="Watch until this many confirmations.")
    ] = 0,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Watch a payment until it ends; with --json one line per change. Exit code 3 if refused."""
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
    """Cancel a payment for good. Exit code 3 if it is signed already and stands."""
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
