"""Which run makes a payment: the one of its id, or one that makes several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.errors import AlreadyExists, Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mesh.data.database import Database, Transaction


class Payments:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_of(self, payment_id: str) -> str:
        """The id of the run that makes it, if any does."""

        async def work(tx: Transaction) -> str:
            row = await tx.fetch_one("SELECT run FROM payment WHERE id = ?", payment_id)
            return str(row[0]) if row else payment_id

        return await self._database.read(work)

    async def require_unclaimed(self, payment_ids: Iterable[str]) -> None:
        """AlreadyExists if some run makes one of them alone. Of others the commit knows."""

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
    """The first of these ids that a run has as one of several payments; empty if none."""
    for id in (run_id, *payment_ids):
        if await tx.fetch_one("SELECT 1 FROM payment WHERE id = ?", id):
            return id
    return ""


def already_claimed(payment_id: str) -> AlreadyExists:
    return AlreadyExists(
        f"another run makes payment {payment_id}; choose a new id, and prove the payment anew",
        reason=Reason.REQUEST_ID_REUSED,
        field="request_id",
    )
