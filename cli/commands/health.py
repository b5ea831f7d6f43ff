"""`anya status` and `anya doctor`: how the mesh of this home is, and what to do about it."""

from __future__ import annotations

import typer

from cli.commands.options import HomeOption, JsonOption


def status(home: HomeOption = None, json: JsonOption = False) -> None:
    """Show the services of the running mesh."""
    import asyncio

    from rich.table import Table

    from cli import endpoints, screen
    from cli.home import Home
    from cli.supervisor import control

    chosen = Home.of(home)
    answer = asyncio.run(control.request(chosen, "status"))
    known = endpoints.read(chosen)
    for name, service in answer["services"].items():
        service["address"], service["health"] = known[name].address, known[name].health
    if json:
        screen.emit(answer)
        return
    table = Table("service", "state", "pid", "up", "restarts", "address", box=None)
    for name, service in answer["services"].items():
        uptime, pid = f"{service['uptime_seconds']:.0f} s", str(service["pid"] or "")
        restarts = str(service["restarts"])
        table.add_row(name, service["state"], pid, uptime, restarts, service["address"])
    screen.results().print(table)


def doctor(home: HomeOption = None, json: JsonOption = False) -> None:
    """Check this home and its mesh. Exit code 1 if a check fails."""
    import asyncio

    from rich.text import Text

    from cli import errors, screen
    from cli.doctor import examine
    from cli.home import Home

    found = asyncio.run(examine(Home.of(home)))
    healthy = all(finding.ok for finding in found)
    if json:
        screen.emit({"ok": healthy, "checks": [finding._asdict() for finding in found]})
    else:
        for finding in found:
            word, style = ("ok", "green") if finding.ok else ("problem", "red")
            line = Text.assemble((f"{word:8}", style), f"{finding.check:12} {finding.detail}")
            if finding.remedy:
                line.append(f" — {finding.remedy}")
            screen.results().print(line)
    if not healthy:
        raise typer.Exit(errors.FAILED)
