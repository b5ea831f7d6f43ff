"""Messages to runs: signals, approvals and cancellations, stored beside the records of the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.data import idempotency
from mesh.errors import FailedPrecondition, Reason, ResourceExhausted
from services.orchestrator.engine.activations import (
    CancelRequested,
    DecisionReceived,
    SignalReceived,
)
from services.orchestrator.store.deletion import not_found
from services.orchestrator.store.suspension import resume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey

MAX_SIGNALS = 1000  # to one run, and as many approvals
RECENT_MS = 10_000  # longer than a message takes from its time stamp to its commit

Message: TypeAlias = "SignalReceived | DecisionReceived | CancelRequested"

SIGNAL, APPROVAL, CANCEL = "SIGNAL", "APPROVAL", "CANCEL"
KINDS: dict[str, type[Message]] = {
    SIGNAL: SignalReceived,
    APPROVAL: DecisionReceived,
    CANCEL: CancelRequested,
}
KIND_OF = {message: kind for kind, message in KINDS.items()}


@dataclass(frozen=True, slots=True)
class SendResult:
    """The outcome of a send."""

    reply: bytes  # of the first call with this key
    claimable: bool  # the run may wait for a claim: this message, or a call before, resumed it


@dataclass(frozen=True, slots=True)
class InboxStatus:
    """The messages of a run that has not ended, as the store has them."""

    suspended: bool
    counts: Mapping[str, int]  # messages by kind
    last_position: int  # 0 without messages


class Messages:
    """The messages of all runs. A message stays after its run has taken it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first_reply(self, key: IdempotencyKey) -> bytes | None:
        """Returns the reply to the first call with ``key``, or None. See mesh/data/idempotency."""

        async def work(tx: Transaction) -> bytes | None:
            return await idempotency.find_reply(tx, key)

        return await self._database.read(work)

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> SendResult:
        """Stores the message once per ``key``.

        Raises NotFound if the run is unknown, FailedPrecondition (RUN_ENDED) if it has ended, and
        ResourceExhausted if it has too many messages of this kind.
        """

        async def work(tx: Transaction) -> SendResult:
            claimable = True

            async def effect() -> bytes:
                nonlocal claimable
                status = await _inbox_status(tx, run_id)
                claimable = status.suspended
                if _accepts(run_id, status, message):
                    await self._store(tx, run_id, status, message)
                return reply

            return SendResult(await idempotency.run_once(tx, key, effect), claimable)

        return await self._database.write(work)

    async def _store(
        self, tx: Transaction, run_id: str, status: InboxStatus, message: Message
    ) -> None:
        await insert(tx, run_id, status, message)
        if status.suspended:
            await resume(tx, run_id)

    async def read_after(self, run_id: str, *, position: int) -> list[Message]:
        """Returns the run's messages after ``position``, in order."""

        async def work(tx: Transaction) -> list[Message]:
            rows = await tx.fetch(
                "SELECT position, kind, payload FROM message WHERE run = ? AND position > ?"
                " ORDER BY position",
                run_id,
                position,
            )
            return [decode(*row) for row in rows]

        return await self._database.read(work)

    async def recent_positions(self) -> dict[str, int]:
        """Returns the last position of each run that was sent a message in the last RECENT_MS."""

        async def work(tx: Transaction) -> dict[str, int]:
            rows = await tx.fetch(
                "SELECT run, MAX(position) FROM message WHERE sent_ms > ? GROUP BY run",
                await tx.now_ms() - RECENT_MS,
            )
            return {str(run): int(position) for run, position in rows}

        return await self._database.read(work)


async def _inbox_status(tx: Transaction, run_id: str) -> InboxStatus:
    """Raises NotFound if the run is unknown, FailedPrecondition (RUN_ENDED) if it has ended."""
    rows = await tx.fetch(
        "SELECT run.finished_us, run.status, run.suspended, message.kind, COUNT(message.run),"
        " COALESCE(MAX(message.position), 0)"
        " FROM run LEFT JOIN message ON message.run = run.id WHERE run.id = ?"
        " GROUP BY run.finished_us, run.status, run.suspended, message.kind",
        run_id,
    )
    if not rows:
        raise await not_found(tx, run_id)
    finished_us, run_status, suspended = rows[0][:3]
    if finished_us is not None:
        raise FailedPrecondition(
            f"run {run_id} has ended, as {run_status}", reason=Reason.RUN_ENDED, field="run_id"
        )
    counts = {kind: count for *_, kind, count, _ in rows}
    return InboxStatus(bool(suspended), counts, max(row[-1] for row in rows))


def _accepts(run_id: str, status: InboxStatus, message: Message) -> bool:
    """Reports whether the message is to be stored: a second cancellation is not.

    Raises ResourceExhausted if the run has too many messages of this kind.
    """
    kind, _, most = encode(message)
    if status.counts.get(kind, 0) < most:
        return True
    if kind != CANCEL:
        raise ResourceExhausted(f"run {run_id} has {most} {kind.lower()}s: it accepts no more")
    return False


async def insert(tx: Transaction, run_id: str, status: InboxStatus, message: Message) -> None:
    """Inserts the message at the next position of the run."""
    kind, payload, _ = encode(message)
    sent_ms = await tx.now_ms()
    await tx.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?)",
        run_id,
        status.last_position + 1,
        kind,
        payload,
        sent_ms,
    )


def encode(message: Message) -> tuple[str, bytes, int]:
    """Returns its kind, its stored form, and how many messages of the kind a run accepts."""
    kind = KIND_OF[type(message)]
    document = asdict(message)
    del document["position"]
    return kind, json.dumps(document).encode(), 1 if kind == CANCEL else MAX_SIGNALS


def decode(position: int, kind: str, payload: bytes) -> Message:
    """Returns the message of a stored form, the reverse of ``encode``."""
    document: dict[str, Any] = {**json.loads(bytes(payload)), "position": position}
    return KINDS[kind](**document)
