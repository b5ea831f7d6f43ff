"""docs/faults.md: every fault names an existing test, and the stores on which the test runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\|.*\| (both|none|(?:SQLite|PostgreSQL): [\w, ]+) \| `(tests/[\w/]+\.py)::(\w+)` \|$",
    PAGE,
    re.MULTILINE,
)
BOTH_STORES = {"databases", "location", "store"}  # fixtures and parameters with both stores


def test_every_row_names_its_own_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    heads = [line for line in rows if line.startswith(("| Fault |", "|---"))]

    assert len(ROWS) == len(rows) - len(heads)
    assert len({name for _, _, name in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("stores", "path", "name"), ROWS, ids=[name for _, _, name in ROWS])
def test_test_of_a_fault_exists_and_runs_on_its_stores(stores: str, path: str, name: str) -> None:
    own = _functions(ROOT / path)
    functions = _functions((ROOT / path).with_name("conftest.py")) | own

    assert name in own
    assert not functions[name].name.startswith("_")
    runs_on_both = not BOTH_STORES.isdisjoint(_given(functions, functions[name]))
    assert runs_on_both == (stores == "both")


def _functions(path: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    return {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _given(
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef],
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> set[str]:
    """Returns the fixtures of the function and, for those of its folder, their fixtures."""
    names = {argument.arg for argument in function.args.args}
    return names.union(*(_given(functions, functions[name]) for name in names & functions.keys()))
