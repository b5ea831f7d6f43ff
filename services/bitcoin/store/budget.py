"""Budgets: the satoshis that a sender may spend a day, across one trust boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import Reason, ResourceExhausted

if TYPE_CHECKING:
    from mesh.data.database import Transaction

DAY_MS = 86_400_000

SCHEMA = """
CREATE TABLE IF NOT EXISTS budget (
    boundary   TEXT NOT NULL,
    caller     TEXT NOT NULL,
    sender_did TEXT NOT NULL,
    day        INTEGER NOT NULL,  -- since 1970-01-01 UTC, by the database's clock
    spent_sat  INTEGER NOT NULL,
    PRIMARY KEY (boundary, caller, sender_did, day)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class BudgetAccount:
    """A sender behind one boundary and caller, and its daily limit."""

    boundary: str
    caller: str
    sender_did: str
    daily_sat: int | None  # None: unlimited


async def check_budget(tx: Transaction, account: BudgetAccount, amount_sat: int) -> None:
    """Raises ResourceExhausted (BUDGET_EXCEEDED) if the amount exceeds the rest of today."""
    row = await tx.fetch_one(
        "SELECT spent_sat FROM budget"
        " WHERE boundary = ? AND caller = ? AND sender_did = ? AND day = ?",
        account.boundary,
        account.caller,
        account.sender_did,
        await _today(tx),
    )
    _check_limit(account, (row[0] if row else 0) + amount_sat)


async def charge(tx: Transaction, account: BudgetAccount, amount_sat: int) -> int:
    """Charges the amount to today, and returns the day. Raises as ``check_budget`` does."""
    day = await _today(tx)
    row = await tx.fetch_one(
        "INSERT INTO budget VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (boundary, caller, sender_did, day)"
        " DO UPDATE SET spent_sat = budget.spent_sat + excluded.spent_sat RETURNING spent_sat",
        account.boundary,
        account.caller,
        account.sender_did,
        day,
        amount_sat,
    )
    _check_limit(account, row[0] if row else 0)
    return day


async def refund(tx: Transaction, payment_id: str, amount_sat: int) -> None:
    """Returns the amount of a payment to the budget of the day that it was charged to."""
    await tx.execute(
        "UPDATE budget SET spent_sat = spent_sat - ? WHERE (boundary, caller, sender_did, day) ="
        " (SELECT boundary, caller, sender_did, day FROM payment WHERE payment_id = ?)",
        amount_sat,
        payment_id,
    )


def _check_limit(account: BudgetAccount, spent_sat: int) -> None:
    if account.daily_sat is not None and spent_sat > account.daily_sat:
        raise ResourceExhausted(
            f"{account.boundary} grants one sender {account.daily_sat} sat a day, and with this "
            f"payment it would be {spent_sat}; the next day begins at 00:00 UTC",
            reason=Reason.BUDGET_EXCEEDED,
        )


async def _today(tx: Transaction) -> int:
    return await tx.now_ms() // DAY_MS
