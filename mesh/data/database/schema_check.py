"""Whether a store has the tables that this version works with, before anything is asked of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias

from mesh.errors import FailedPrecondition, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

Shape: TypeAlias = "Mapping[str, frozenset[str]]"  # table -> columns

COLUMNS = """
SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name)
AS columns WHERE tables.type = 'table'
"""


def check(found: Shape, schema: str, *, name: str) -> None:
    """FailedPrecondition (STORE_INCOMPATIBLE) if a table of ``schema`` is there in another shape.

    ``name`` is what to call the store. A table that is not there yet is no fault.
    """
    wanted = _wanted(schema)
    faults = [
        fault
        for table in sorted(wanted.keys() & found.keys())
        for fault in (
            *(f"{table} lacks {column}" for column in sorted(wanted[table] - found[table])),
            *(f"{table} has {column}" for column in sorted(found[table] - wanted[table])),
        )
    ]
    if faults:
        raise FailedPrecondition(
            f"{name} is a store of another version ({', '.join(faults)}): go on with that version,"
            " or with a new store",
            reason=Reason.STORE_INCOMPATIBLE,
        )


def shape_of(connection: sqlite3.Connection) -> Shape:
    """The tables of a SQLite store."""
    return gather(connection.execute(COLUMNS).fetchall())


def gather(rows: list[tuple[str, str]]) -> Shape:
    """Out of pairs of table and column."""
    shape: dict[str, frozenset[str]] = {}
    for table, column in rows:
        shape[table] = shape.get(table, frozenset()) | {column}
    return shape


def _wanted(schema: str) -> Shape:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema)
        return shape_of(connection)
