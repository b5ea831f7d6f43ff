"""The architecture, as rules that fail the build."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh import client, server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for top in ("mesh", "features", "services", "cli", "tests", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
)
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]

# where -> what it must never import
WIRE = ("grpc", "grpc_status", "anya")
WORLD = (*WIRE, "asyncio", "sqlite3", "os", "time", "datetime", "random", "socket")
FORBIDDEN = {
    "mesh": ("services", "cli"),
    "mesh/errors.py": WORLD,
    "mesh/breaker.py": WORLD,
    "mesh/trust.py": WORLD,
    "mesh/clock.py": WIRE,
    "mesh/actor.py": WIRE,
    "mesh/database": WIRE,
    "mesh/inbox.py": WIRE,
    "mesh/outbox.py": WIRE,
    "services/bitcoin": ("services.web5", "services.ml", "services.orchestrator", "mesh.client"),
}

# The only places that may catch what nobody foresaw.
BOUNDARIES = {
    "cli/__main__.py": "main: a defect becomes one line, and its traceback a file",
    "mesh/actor.py": "the supervisor: a broken actor is built anew",
    "mesh/database/postgres.py": "the writer: one failure is one caller's, not the batch's",
    "mesh/database/sqlite.py": "the writer: one failure is one caller's, not the batch's",
    "mesh/interceptors/errors.py": "the error step: the text stays in the log",
}

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60


@pytest.mark.parametrize(("where", "banned"), FORBIDDEN.items(), ids=FORBIDDEN)
def test_imports_point_inwards(where: str, banned: tuple[str, ...]) -> None:
    top = ROOT / where
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in ([top] if top.is_file() else top.rglob("*.py"))
        for name in imports(path)
        if any(name == ban or name.startswith(f"{ban}.") for ban in banned)
    ]

    assert not broken


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_PER_FILE
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno < LINES_PER_FUNCTION, node.name


def test_what_nobody_foresaw_is_caught_at_the_boundaries_only() -> None:
    catching = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
    }

    assert catching == BOUNDARIES.keys()


@pytest.mark.parametrize(
    ("side", "steps"),
    [("Server", server.STEPS), ("Client", client.STEPS)],
    ids=["server", "client"],
)
def test_the_document_lists_the_steps_as_they_run(side: str, steps: Sequence[object]) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = re.search(rf"^{side}: (.+)$", text, re.MULTILINE)

    assert listed
    assert listed[1].split(" → ") == [f"`{name(step)}`" for step in steps]


def name(step: object) -> str:
    """``"deadline.require"``: the file of the step, and what it does."""
    return f"{step.__module__.rpartition('.')[2]}.{getattr(step, '__name__')}"  # noqa: B009


def imports(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))
