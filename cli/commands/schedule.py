"""The commands of `anya schedule`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from anya.orchestrator.v1 import schedule_pb2 as pb

app = typer.Typer(
    help="Start runs by the clock: create, list and pause schedules.", no_args_is_help=True
)

ScheduleArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="Id of the schedule.")
]


@app.command(
    "create", epilog="Example: anya schedule create mornings report --cron '0 9 * * MON-FRI'"
)
def create_schedule(
    schedule_id: ScheduleArgument,
    workflow: Annotated[
        str, typer.Argument(metavar="WORKFLOW", help="Id of a registered workflow.")
    ],
    value: Annotated[
        str, typer.Option("--input", help="Input of the runs, a JSON object; @FILE reads a file.")
    ] = "{}",
    every: Annotated[str, typer.Option(help="Interval between due times: 30s, 5m, 2h, 7d.")] = "",
    cron: Annotated[
        str, typer.Option(help="Cron expression of five fields, such as '0 9 * * MON-FRI'.")
    ] = "",
    zone: Annotated[str, typer.Option(help="Time zone of --cron. Default: UTC.")] = "",
    start: Annotated[str, typer.Option(help="No due time is before it; RFC 3339.")] = "",
    end: Annotated[str, typer.Option(help="No due time is after it; RFC 3339.")] = "",
    overlap: Annotated[
        Literal["skip", "allow"],
        typer.Option(help="While the last run has not ended: start none, or one."),
    ] = "skip",
    catch_up: Annotated[
        Literal["none", "latest", "all"],
        typer.Option(help="Which due times of an outage start a run."),
    ] = "latest",
    catch_up_limit: Annotated[
        int, typer.Option(min=1, max=100, help="Most runs that --catch-up all starts.")
    ] = 100,
    request_id: Annotated[
        str, typer.Option(help="Idempotency key: if repeated, the same schedule.")
    ] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Start runs of a workflow at intervals or by cron. Workflows that pay are refused."""
    from functools import partial

    from cli import runs, schedules
    from cli.connection import ask
    from cli.home import Home

    given = {
        "schedule_id": schedule_id,
        "workflow_id": workflow,
        "input": runs.read_input(value),
        **schedules.timing(every, cron, zone),
        "start_time": start or None,
        "end_time": end or None,
        "overlap": overlap,
        "catch_up": catch_up,
        "catch_up_limit": catch_up_limit,
    }
    create = partial(schedules.create, given=given, request_id=request_id)
    _show(ask(Home.of(home), create), json=json)


@app.command("list")
def list_schedules(home: HomeOption = None, json: JsonOption = False) -> None:
    """List all schedules, by id."""
    from cli import schedules, screen
    from cli.connection import ask
    from cli.home import Home
    from services.orchestrator.definition.values import to_json

    found = ask(Home.of(home), schedules.list_all)
    if json:
        screen.emit({"schedules": [to_json(schedule) for schedule in found]})
        return
    for schedule in found:
        _show(schedule, json=False)


@app.command("show")
def show_schedule(
    schedule_id: ScheduleArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Show when a schedule is due next, and how many runs it started."""
    from functools import partial

    from cli import schedules
    from cli.connection import ask
    from cli.home import Home

    _show(ask(Home.of(home), partial(schedules.get, schedule_id=schedule_id)), json=json)


@app.command("pause")
def pause_schedule(
    schedule_id: ScheduleArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Pause a schedule: due times start no runs until it is resumed."""
    from functools import partial

    from cli import schedules
    from cli.connection import ask
    from cli.home import Home

    _show(ask(Home.of(home), partial(schedules.pause, schedule_id=schedule_id)), json=json)


@app.command("resume")
def resume_schedule(
    schedule_id: ScheduleArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Resume a schedule at the next due time."""
    from functools import partial

    from cli import schedules
    from cli.connection import ask
    from cli.home import Home

    _show(ask(Home.of(home), partial(schedules.resume, schedule_id=schedule_id)), json=json)


@app.command("delete")
def delete_schedule(
    schedule_id: ScheduleArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Delete a schedule. Runs that it started continue."""
    from functools import partial

    from cli import schedules, screen
    from cli.connection import ask
    from cli.home import Home

    ask(Home.of(home), partial(schedules.delete, schedule_id=schedule_id))
    if json:
        screen.emit({"schedule_id": schedule_id, "deleted": True})
    else:
        screen.show(f"{schedule_id}  deleted")


def _show(schedule: pb.Schedule, *, json: bool) -> None:
    from cli import schedules, screen
    from services.orchestrator.definition.values import to_json

    if json:
        screen.emit(to_json(schedule))
        return
    for line in schedules.lines(schedule):
        screen.show(line)
