"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

HomeOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of the mesh; default $ANYA_HOME, else .anya here."),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, errors as JSON on stderr.")
]
