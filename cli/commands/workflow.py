"""`anya workflow`: checks definitions offline, and registers them in the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from cli.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from anya.orchestrator.v1 import workflow_pb2 as pb

app = typer.Typer(help="Check, register and list workflow definitions.", no_args_is_help=True)

FileArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, readable=True, help="The definition, YAML or JSON."
    ),
]
UsingOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        exists=True,
        dir_okay=False,
        readable=True,
        help="A workflow that the definition runs as a step; may repeat, innermost first.",
    ),
]


@app.command("check", epilog="Example: anya workflow check outer.yaml --with inner.yaml")
def check_definition(
    file: FileArgument, using: UsingOption = None, json: JsonOption = False
) -> None:
    """Check a definition against the operations of the mesh; needs no running mesh."""
    from cli import errors, screen
    from services.orchestrator.definition import DefinitionInvalidError, check, load, operations

    known = operations()
    for inner in using or ():
        try:
            known = known.with_workflow(load(_text(inner), known))
        except DefinitionInvalidError as error:
            raise errors.CommandError(
                "\n".join(f"{inner}:{problem}" for problem in error.problems),
                code="INVALID_ARGUMENT",
                reason="DEFINITION_INVALID",
            ) from None
    problems = check(_text(file), known)
    if json:
        listed = [{"line": p.line, "column": p.column, "message": p.message} for p in problems]
        screen.emit({"file": str(file), "ok": not problems, "problems": listed})
    elif problems:
        for problem in problems:
            screen.show(f"{file}:{problem}")
    else:
        screen.show(f"{file}: ok")
    if problems:
        raise typer.Exit(errors.FAILED)


@app.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of definitions, for editors."""
    from cli import screen
    from services.orchestrator.definition.schema import schema

    screen.emit(schema())


@app.command("register")
def register_definition(
    file: FileArgument, home: HomeOption = None, json: JsonOption = False
) -> None:
    """Store a definition in the mesh; started runs keep the definition they started with."""
    from functools import partial

    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home

    definition = _text(file)
    reply = ask(Home.of(home), partial(runs.register, definition=definition))
    registered = _summary(reply.workflow)
    if json:
        screen.emit({**registered, "privileges": list(reply.privileges)})
    else:
        screen.show(f"{registered['workflow_id']}  {registered['definition_hash']}")
        needed = ", ".join(reply.privileges) or "none"
        screen.show(f"  privileges  {needed}")


@app.command("list")
def list_workflows(home: HomeOption = None, json: JsonOption = False) -> None:
    """List the newest definition of every workflow."""
    from cli import runs, screen
    from cli.connection import ask
    from cli.home import Home

    found = [_summary(workflow) for workflow in ask(Home.of(home), runs.workflows)]
    if json:
        screen.emit({"workflows": found})
        return
    for workflow in found:
        screen.show(
            f"{workflow['workflow_id']:24} {workflow['definition_hash'][:12]}  {workflow['name']}"
        )


def _summary(workflow: pb.Workflow) -> dict[str, Any]:
    """Returns the workflow as JSON, without its definition."""
    from services.orchestrator.definition.values import to_json

    document = to_json(workflow)
    del document["definition"]
    return document


def _text(file: Path) -> str:
    from cli import errors

    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise errors.CommandError(
            f"{file} is not UTF-8: byte {error.start + 1} cannot be read",
            code="INVALID_ARGUMENT",
            reason="DEFINITION_INVALID",
        ) from None
