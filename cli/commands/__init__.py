"""The commands. A module here only names options; what it needs it imports when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands import (
    audit,
    block,
    demo,
    health,
    pay,
    payment,
    run,
    schedule,
    trace,
    trust,
    up,
    workflow,
)

app = typer.Typer(
    name="anya",
    help="Payments that happen only with proof: run the mesh, pay, inspect.",
    epilog="Begin with: anya demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"anya {version('anya-mesh')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Payments that happen only with proof: run the mesh, pay, inspect."""


app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("status")(health.status)
app.command("doctor")(health.doctor)
app.command("pay", epilog=pay.EXAMPLE)(pay.pay)
app.add_typer(payment.app, name="payment")
app.add_typer(run.app, name="run")
app.add_typer(workflow.app, name="workflow")
app.add_typer(schedule.app, name="schedule")
app.add_typer(block.app, name="block")
app.add_typer(trace.app, name="trace")
app.add_typer(trust.app, name="trust")
app.add_typer(audit.app, name="audit")
