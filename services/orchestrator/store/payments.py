"""Finds the run that makes a payment: a run has the id of its single payment, or rows of its own.

Rows of ``payment`` exist for runs that make several payments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import AlreadyExists, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.data.database import Database, Transaction


class Payments:
    """The payment ids of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_of(self, payment_id: str) -> str:
        """Returns the id of the run that makes the payment, if a run does."""

        async def work(tx: Transaction) -> str:
            row = await tx.fetch_one("SELECT run FROM payment WHERE id = ?", payment_id)
            return str(row[0]) if row else payment_id

        return await self._database.read(work)

    async def require_unclaimed(self, payment_ids: Iterable[str]) -> None:
        """Raises AlreadyExists if one of the ids is the id of a run.

        Ids that another run has as one of several payments are found by the commit.
        """

        async def work(tx: Transaction) -> str:
            for id in payment_ids:
                if await tx.fetch_one(
                    "SELECT 1 FROM run WHERE id = ? UNION ALL"
                    " SELECT 1 FROM deleted_run WHERE id = ?",
                    id,
                    id,
                ):
                    return id
            return ""

        if found := await self._database.read(work):
            raise already_claimed(found)


async def claimed_payment(tx: Transaction, run_id: str, payment_ids: Iterable[str]) -> str:
    """Returns the first of these ids that a run has as one of several payments, or ""."""
    for id in (run_id, *payment_ids):
        if await tx.fetch_one("SELECT 1 FROM payment WHERE id = ?", id):
            return id
    return ""


def already_claimed(payment_id: str) -> AlreadyExists:
    """Returns the error for a payment id that another run has."""
    return AlreadyExists(
        f"payment {payment_id} belongs to another run; create a new payment id and a new"
        " presentation",
        reason=Reason.REQUEST_ID_REUSED,
        field="request_id",
    )
