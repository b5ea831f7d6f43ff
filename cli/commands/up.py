"""`anya up`: run the mesh until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from cli.home import Home
    from cli.supervisor.mesh import Event


def up(
    home: HomeOption = None,
    port_base: Annotated[
        int | None,
        typer.Option(
            min=1024, max=65000, help="First of eight consecutive ports; kept for later starts."
        ),
    ] = None,
    mine: Annotated[
        Literal["auto", "manual"],
        typer.Option(help="auto: a block 2 s after the mempool fills; manual: on request only."),
    ] = "auto",
    json: JsonOption = False,
) -> None:
    """Run the four services until Ctrl-C; restart those that crash."""
    import asyncio
    from functools import partial

    from cli.home import Home
    from cli.supervisor.mesh import Options
    from cli.supervisor.mesh import up as run

    chosen = Home.of(home)
    report = partial(_report, chosen, as_json=json)
    asyncio.run(run(chosen, Options(port_base=port_base, mine=mine), report))


def _report(home: Home, event: Event, *, as_json: bool) -> None:
    """Prints an event: the ready line on stdout, all others on stderr, as JSON if asked."""
    import sys

    from cli.screen import emit

    if as_json:
        emit(_document(home, event))
        return
    line = _line(home, event)
    print(line, file=sys.stdout if line.startswith("ready") else sys.stderr, flush=True)


def _document(home: Home, event: Event) -> dict[str, Any]:
    from dataclasses import asdict

    from cli.supervisor.mesh import Ready

    if isinstance(event, Ready):
        addresses = {name: endpoint.address for name, endpoint in event.endpoints.items()}
        about = {"endpoints": str(home.endpoints), "services": addresses}
        return {"ready": {**about, "seconds": event.seconds}}
    return {type(event).__name__.lower(): asdict(event)}


def _line(home: Home, event: Event) -> str:
    from cli.supervisor.mesh import Ready, Trouble
    from cli.supervisor.service import Crash

    match event:
        case Ready(endpoints, seconds):
            listed = ", ".join(f"{name} {one.address}" for name, one in endpoints.items())
            return f"ready in {seconds:.1f} s: {listed}; {home.endpoints}"
        case Crash(service, how):
            return f"{service} {how}; starting it again ({home.log(service)})"
        case Trouble(what):
            return what
        case _:
            return "stopping"
