"""`anya run`: runs of workflows."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from anya.orchestrator.v1 import workflow_pb2
    from cli.connection import Channels

app = typer.Typer(help="Runs of workflows: start, look, steer.", no_args_is_help=True)


class Status(StrEnum):
    RUNNING = "running"
    CIRCUIT_OPEN = "circuit_open"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    CANCELLED = "cancelled"
    NEEDS_ATTENTION = "needs_attention"


RunArgument: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


@app.command("start", epilog="""Example: anya run start greet --input '{"name": "Ada"}' --wait""")
def start_run(
    workflow: Annotated[
        str, typer.Argument(metavar="WORKFLOW", help="Id of a registered workflow.")
    ],
    value: Annotated[
        str, typer.Option("--input", help="Input of the run: a JSON object, or @FILE.")
    ] = "{}",
    run_id: Annotated[
        str, typer.Option(help="Idempotency key: repeating it returns the same run.")
    ] = "",
    pay_as: Annotated[
        str,
        typer.Option(metavar="PAYER", help="Prove each payment of the input as this name or DID."),
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Return at its end; exit code 3 if refused.")
    ] = False,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Start a run and return at once, or with --wait at its end. To pay once, use anya pay.

    With --pay-as, for a workflow that makes several payments: each is an object of the input with
    recipient_address and amount; payment_id, sender_did and sender_address are filled in.
    """

    from cli import payment_client, runs, screen
    from cli.connection import ask, traced
    from cli.home import Home
    from cli.identities import Identities
    from services.orchestrator.definition.values import to_json

    given = runs.read_input(value)
    payer = Identities(Home.of(home)).find(pay_as) if pay_as else None

    async def start(channels: Channels) -> workflow_pb2.StartRunResponse:
        with traced("start"):
            proven = await payment_client.prove_input(channels, payer, given) if payer else []
            return await runs.start(channels, workflow, given, run_id=run_id, payments=proven)

    async def start_and_wait(channels: Channels) -> int:
        started = await start(channels)
        run = await runs.finish(channels, started.run_id, None if json else screen.show)
        if json:
            screen.emit(to_json(run))
        return runs.exit_code(run.status)

    if wait:
        raise typer.Exit(ask(Home.of(home), start_and_wait))
    started = to_json(ask(Home.of(home), start))
    started.pop("run")  # there is none without a wait
    if json:
        screen.emit(started)
    else:
        screen.show(f"{started['run_id']}  {started['status']}")


@app.command("list", epilog="Example: anya run list --status failed --since 7d")
def list_runs(
    status: Annotated[
        list[Status] | None, typer.Option(help="Only this status; may be repeated.")
    ] = None,
    workflow: Annotated[str, typer.Option(help="Only of this workflow.")] = "",
    creator: Annotated[str, typer.Option(help="Only runs that this SPIFFE ID started.")] = "",
    attention: Annotated[bool, typer.Option(help="Only runs that need an operator.")] = False,
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Created then or later: 2026-11-23, RFC 3339, or an age: 90m, 2h, 7d.",
        ),
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Created before.")] = "",
    ended_since: Annotated[str, typer.Option(metavar="TIME", help="Ended then or later.")] = "",
    ended_until: Annotated[str, typer.Option(metavar="TIME", help="Ended before.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most this many.")] = 20,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """List runs, newest first; with --ended-since or --ended-until, latest end first."""
    from functools import partial

    from cli import run_list, runs, screen
    from cli.connection import ask
    from cli.home import Home
    from services.orchestrator.definition.values import to_json

    times = {"create_time_from": since, "create_time_before": until}
    times |= {"end_time_from": ended_since, "end_time_before": ended_until}
    request = run_list.wanted(
        statuses=[word.value for word in status or ()],
        workflow_id=workflow,
        creator=creator,
        needs_attention=attention,
        times=times,
    )
    search = partial(run_list.find, request=request, limit=limit, say=screen.say)
    found = ask(Home.of(home), search)
    if json:
        screen.emit({"runs": [to_json(run) for run in found.runs], "more": found.more})
        return
    for run in found.runs:
        for line in runs.lines(run):
            screen.show(line)
    screen.say(run_list.summary(found))


@app.command("show")
def show_run(run_id: RunArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Show a run with its steps."""
    from functools import partial

    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home
    from services.orchestrator.definition.values import to_json

    run = ask(Home.of(home), partial(runs.get, run_id=run_id))
    if json:
        screen.emit(to_json(run))
        return
    for line in runs.lines(run):
        screen.show(line)


@app.command("erase")
def erase_run(run_id: RunArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Erase the personal data of an ended run for good. It cannot be redriven afterwards."""
    from functools import partial

    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home
    from services.orchestrator.definition.values import to_json

    erased = ask(Home.of(home), partial(runs.erase, run_id=run_id))
    if json:
        screen.emit(to_json(erased))
    else:
        screen.show(f"{run_id}  erased {erased.run.erase_time.ToJsonString()}")


@app.command("signal", epilog="""Example: anya run signal RUN paid --payload '{"by": "Ada"}'""")
def signal_run(
    run_id: RunArgument,
    name: Annotated[
        str, typer.Argument(metavar="SIGNAL", help="Name of the signal that a step waits for.")
    ],
    payload: Annotated[
        str, typer.Option("--payload", help="Payload: a JSON object, or @FILE.")
    ] = "{}",
    correlation: Annotated[
        str, typer.Option(help="Correlation id; only steps that wait for it take it.")
    ] = "",
    request_id: Annotated[
        str, typer.Option(help="Idempotency key: a repetition has no effect.")
    ] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Send a signal to a run, for a step that waits now or later."""
    from functools import partial

    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home

    send = partial(
        runs.signal,
        run_id=run_id,
        name=name,
        payload=runs.read_input(payload),
        correlation=correlation,
        request_id=request_id,
    )
    ask(Home.of(home), send)
    if json:
        screen.emit({"run_id": run_id, "signal": name})
    else:
        screen.show(f"{run_id}  {name} sent")


@app.command("approve", epilog="Example: anya run approve RUN agreed --as payer")
def approve_run(
    run_id: RunArgument,
    step: Annotated[str, typer.Argument(metavar="STEP", help="Path of the approval step.")],
    reject: Annotated[bool, typer.Option("--reject", help="Sign a rejection.")] = False,
    name: Annotated[str, typer.Option("--as", help="Name or DID of one of your identities.")] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Sign an approval or rejection with the key of your DID."""
    from functools import partial

    from cli import approvals, screen
    from cli.connection import ask
    from cli.home import Home
    from cli.identities import Identities

    here = Home.of(home)
    known = Identities(here)
    decide = partial(
        approvals.decide,
        run_id=run_id,
        path=step,
        identities=[known.find(name)] if name else known.all(),
        approved=not reject,
        say=None if json else screen.show,
    )
    decided = ask(here, decide)
    word = "approved" if decided.approved else "rejected"
    if json:
        screen.emit(
            {"run_id": run_id, "step": step, "approver": decided.approver, "decision": word}
        )
    else:
        screen.show(f"{run_id}  {step} {word} as {decided.approver}")


@app.command("cancel")
def cancel_run(
    run_id: RunArgument,
    reason: Annotated[str, typer.Option(help="Reason, recorded with the run.")] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Cancel a run; a payment it has made stands. Watch the run for its end."""
    from functools import partial

    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home

    ask(Home.of(home), partial(runs.cancel, run_id=run_id, reason=reason))
    if json:
        screen.emit({"run_id": run_id, "cancel": "asked"})
    else:
        screen.show(f"{run_id}  asked to end")


@app.command("redrive", epilog='Example: anya run redrive RUN --reason "web5 is back"')
def redrive_run(
    run_id: RunArgument,
    reason: Annotated[str, typer.Option(help="Reason, recorded with the run.")] = "",
    request_id: Annotated[
        str, typer.Option(help="Idempotency key: a repetition has no effect.")
    ] = "",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Redrive a failed run from the step that stopped it. Watch the run for its end."""
    from functools import partial

    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home

    again = partial(runs.redrive, run_id=run_id, reason=reason, request_id=request_id)
    ask(Home.of(home), again)
    if json:
        screen.emit({"run_id": run_id, "redrive": "asked"})
    else:
        screen.show(f"{run_id}  redriven")


@app.command("watch")
def watch_run(run_id: RunArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Watch a run to its end. Exit code 3 if refused.

    Under --json one line per event: the run with those steps alone that the event changed.
    """
    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home
    from services.orchestrator.definition.values import to_json

    async def follow(channels: Channels) -> int:
        if not json:
            return runs.exit_code((await runs.finish(channels, run_id, screen.show)).status)
        async for update in runs.watch(channels, run_id):
            screen.emit(to_json(update.run))
        return runs.exit_code(update.run.status)

    raise typer.Exit(ask(Home.of(home), follow))
