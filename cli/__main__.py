"""The `anya` command. Here every failure becomes one line, or one object, and an exit code."""

from __future__ import annotations

import json
import os
import sys
from typing import NoReturn

import typer

from cli import errors
from cli.commands import app
from mesh.errors import MeshError


def main() -> NoReturn:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    try:
        code = app(arguments, prog_name="anya", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else errors.OK
    except errors.CommandError as error:
        return _fail(error, arguments)
    except MeshError as error:
        return _fail(errors.from_mesh(error), arguments)
    except typer.TyperException as error:
        if not error.format_message():  # no command was given, and the help is on the screen
            return errors.USAGE
        remedy = "anya --help lists the commands"
        return _fail(errors.usage(error.format_message(), remedy=remedy), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return errors.INTERRUPTED
    except BrokenPipeError:  # the reader of our output left: anya trace show | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.FAILED
    except OSError as error:
        return _fail(errors.from_system(error) or _unforeseen(error), arguments)
    except Exception as error:
        return _fail(_unforeseen(error), arguments)


def _fail(error: errors.CommandError, arguments: list[str]) -> int:
    if "--json" in arguments:
        print(json.dumps(error.document()), file=sys.stderr)
    else:
        print(f"anya: {error.line()}", file=sys.stderr)
    return error.exit_code


def _unforeseen(error: Exception) -> errors.CommandError:
    """Reports an internal error: its traceback goes to a file, its id to the terminal."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="anya-", suffix=".txt", delete=False) as file:
        traceback.print_exception(error, file=file)
    return errors.CommandError(
        f"anya has a defect: {type(error).__name__}",
        code="INTERNAL",
        reason="DEFECT",
        remedy=f"report it with {file.name}",
    )


if __name__ == "__main__":
    main()
