"""`anya up`: run the mesh until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from cli.home import Home
    from cli.supervisor.mesh import Event


def up(
    home: HomeOption = None,
    port_base: Annotated[
        int | None,
        typer.Option(min=1024, max=65000, help="First of eight ports in a row; kept from then on."),
    ] = None,
    mine: Annotated[
        Literal["auto", "manual"],
        typer.Option(help="auto: a block 2 s after the mempool fills; manual: only when asked."),
    ] = "auto",
    json: JsonOption = False,
) -> None:
    """Run the four services until Ctrl-C, and keep them running."""
    import asyncio
    from functools import partial

    from cli.home import Home
    from cli.supervisor.mesh import Options
    from cli.supervisor.mesh import up as run

    chosen = Home.of(home)
    report = partial(_report, chosen, as_json=json)
    asyncio.run(run(chosen, Options(port_base=port_base, mine=mine), report))


def _report(home: Home, event: Event, *, as_json: bool) -> None:
    import sys

    from cli.screen import emit
    from cli.supervisor.mesh import Ready, Stopping
    from cli.supervisor.service import Crash

    match event:
        case Ready(endpoints, seconds):
            addresses = {name: endpoint.address for name, endpoint in endpoints.items()}
            if as_json:
                path = str(home.endpoints)
                emit({"ready": {"endpoints": path, "services": addresses, "seconds": seconds}})
            else:
                listed = ", ".join(f"{name} {address}" for name, address in addresses.items())
                print(f"ready in {seconds:.1f} s: {listed}; {home.endpoints}", flush=True)
        case Crash(service, how):
            if as_json:
                emit({"crashed": {"service": service, "how": how}})
            else:
                log = home.log(service)
                print(f"{service} {how}; starting it again ({log})", file=sys.stderr, flush=True)
        case Stopping():
            if as_json:
                emit({"stopping": {}})
            else:
                print("stopping", file=sys.stderr, flush=True)
