"""`anya trace`: what the local span store holds. Needs no running mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.commands.options import HomeOption, JsonOption

app = typer.Typer(help="Traces of the local mesh: list, show.", no_args_is_help=True)


@app.command("list")
def list_traces(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many.")] = 20,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List the newest traces, newest first."""
    from datetime import UTC, datetime

    from cli import screen
    from cli.home import Home
    from cli.spans import store

    found = store.newest(Home.of(home).traces, limit=limit)
    if json:
        screen.emit({"traces": [summary._asdict() for summary in found]})
        return
    for summary in found:
        began = datetime.fromtimestamp(summary.start_ns / 1e9, UTC).astimezone()
        root = f"{summary.service}: {summary.name}" if summary.name else "(no root yet)"
        screen.results().print(
            f"{summary.trace_id}  {began:%H:%M:%S}  {summary.spans:4d} spans"
            f"  {summary.duration_ns / 1e6:8.1f} ms  {root}{'  ✗' if summary.failed else ''}",
            style="red" if summary.failed else None,
        )


@app.command("show", epilog="Example: anya trace show 1f0c")
def show_trace(
    trace_id: Annotated[str, typer.Argument(help="Id of the trace, or its first characters.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Show one trace as a waterfall."""
    from cli import screen
    from cli.home import Home
    from cli.spans import store, waterfall

    path = Home.of(home).traces
    trace = store.load(path, store.expand(path, trace_id))
    if json:
        screen.emit(waterfall.document(trace))
        return
    screen.results().print(waterfall.waterfall(trace))
    screen.results().print(waterfall.summary(trace))
