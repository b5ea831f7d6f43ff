"""Checks at start that a store has the tables of this version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

from mesh.errors import FailedPrecondition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

Tables: TypeAlias = "Mapping[str, frozenset[str]]"  # table -> columns

COLUMNS = """
SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name)
AS columns WHERE tables.type = 'table'
"""


def check(found: Tables, schema: str, *, name: str) -> None:
    """Raises FailedPrecondition (STORE_INCOMPATIBLE) if a table has other columns than ``schema``.

    ``name`` names the store in the error. A table that does not exist yet is accepted.
    """
    expected = _expected(schema)
    differences = [
        difference
        for table in sorted(expected.keys() & found.keys())
        for difference in (
            *(f"{table} lacks {column}" for column in sorted(expected[table] - found[table])),
            *(f"{table} has {column}" for column in sorted(found[table] - expected[table])),
        )
    ]
    if differences:
        raise FailedPrecondition(
            f"{name} is a store of another version ({', '.join(differences)}):"
            " use it with that version, or start with a new store",
            reason=Reason.STORE_INCOMPATIBLE,
        )


def tables_of(connection: sqlite3.Connection) -> Tables:
    """Returns the tables of a SQLite store with their columns."""
    return gather(connection.execute(COLUMNS).fetchall())


def gather(rows: list[tuple[str, str]]) -> Tables:
    """Returns columns by table, from pairs of table and column."""
    tables: dict[str, frozenset[str]] = {}
    for table, column in rows:
        tables[table] = tables.get(table, frozenset()) | {column}
    return tables


def _expected(schema: str) -> Tables:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        return tables_of(connection)
