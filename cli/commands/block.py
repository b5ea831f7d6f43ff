"""`anya block`: what a raw block says by itself. Needs no running mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.commands.options import JsonOption

app = typer.Typer(help="Raw blocks: inspect.", no_args_is_help=True)

STATISTICS = ("min", "median", "max")
STATUSES = ("PRESENT", "UNAVAILABLE")
MAX_FILE_BYTES = 8 * 1024 * 1024 + 2  # the largest block in hex, and a line end


@app.command("inspect", epilog="Example: anya block inspect block.bin --json")
def inspect_block(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="File with the block, binary or hex."
        ),
    ],
    json: JsonOption = False,
) -> None:
    """Parse a raw block and show the features of its transactions."""
    import time

    from cli import screen
    from cli.errors import CommandError
    from features import block
    from formats.bitcoin.errors import MalformedError

    raw = _bytes(file)
    began = time.perf_counter()
    try:
        document = block.inspect(raw)
    except MalformedError as error:
        raise CommandError(
            f"{file} holds no block: {error}",
            code="INVALID_ARGUMENT",
            reason="BLOCK_MALFORMED",
            remedy="give a whole raw block, as bytes or as hex",
        ) from None
    document["seconds"] = round(time.perf_counter() - began, 4)
    if json:
        screen.emit(document)
    else:
        _print(document)


def _bytes(file: Path) -> bytes:
    """Returns the bytes of the block in the file, which is binary or only hex digits."""
    with file.open("rb") as opened:
        raw = opened.read(MAX_FILE_BYTES)
    try:
        return bytes.fromhex(raw.decode("ascii"))
    except ValueError:
        return raw


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    from cli import screen

    totals = ("block_hash", "height", "transactions", "inputs", "inputs_known", "outputs")
    for name in (*totals, "output_total_sat", "weight", "seconds"):
        screen.show(f"{name:18} {document[name]}")
    table = Table("feature", "present", *STATISTICS, "unavailable", box=None)
    for name, column in document["summary"].items():
        statuses = column["statuses"]
        numbers = [
            f"{column[key]:.6g}" if key in column else "" for key in ("min", "median", "max")
        ]
        present, unavailable = statuses.get("PRESENT", 0), statuses.get("UNAVAILABLE", 0)
        table.add_row(name, str(present), *numbers, str(unavailable))
    screen.results().print(table)
