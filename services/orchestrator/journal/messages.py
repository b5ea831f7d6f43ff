"""What is sent to runs: kept beside their journals, taken in order by whoever drives them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh import inbox
from mesh.errors import FailedPrecondition, NotFound, Reason, ResourceExhausted
from services.orchestrator.engine.events import Approved, CancelRequested, Signalled
from services.orchestrator.journal.sleeping import wake

if TYPE_CHECKING:
    from mesh.database import Database, Transaction
    from mesh.inbox import RequestKey

MAX_SIGNALS = 1000  # to one run, and as many approvals
LATELY_MS = 10_000  # longer than a message takes to be seen once it was stamped

Message: TypeAlias = "Signalled | Approved | CancelRequested"

SIGNAL, APPROVAL, CANCEL = "SIGNAL", "APPROVAL", "CANCEL"
KINDS: dict[str, type[Message]] = {
    SIGNAL: Signalled,
    APPROVAL: Approved,
    CANCEL: CancelRequested,
}
WORDS = {kind: word for word, kind in KINDS.items()}


class Messages:
    """A message is taken when its run has journalled one of its position: nothing is deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first_reply(self, key: RequestKey) -> bytes | None:
        """What was answered to the first call under ``key``, see mesh/inbox.py."""

        async def work(tx: Transaction) -> bytes | None:
            return await inbox.find(tx, key)

        return await self._database.read(work)

    async def send(
        self, key: RequestKey, run_id: str, message: Message, reply: bytes = b""
    ) -> bytes:
        """Store it once per ``key``; gives the first reply.

        NotFound for an unknown run, FailedPrecondition for one that has ended, ResourceExhausted
        for one that was sent too much.
        """

        async def work(tx: Transaction) -> bytes:
            async def effect() -> bytes:
                await _must_be_open(tx, run_id)
                await _insert(tx, run_id, message)
                await self._tell(tx, run_id, woken=await wake(tx, run_id))
                return reply

            return await inbox.once(tx, key, effect)

        return await self._database.write(work)

    async def _tell(self, tx: Transaction, run_id: str, *, woken: bool) -> None:
        """Let whoever drives the run, or may now, know at once, if it is another process."""

    async def waiting(self, run_id: str, *, taken: int) -> list[Message]:
        """Those behind the position ``taken``, in order."""

        async def work(tx: Transaction) -> list[Message]:
            rows = await tx.fetch(
                "SELECT position, kind, payload FROM message WHERE run = ? AND position > ?"
                " ORDER BY position",
                run_id,
                taken,
            )
            return [_decode(position, kind, payload) for position, kind, payload in rows]

        return await self._database.read(work)

    async def lately(self) -> dict[str, int]:
        """Runs that were sent something a short while ago: id and last position."""

        async def work(tx: Transaction) -> dict[str, int]:
            rows = await tx.fetch(
                "SELECT run, MAX(position) FROM message WHERE sent_ms > ? GROUP BY run",
                await tx.now_ms() - LATELY_MS,
            )
            return {str(run): int(position) for run, position in rows}

        return await self._database.read(work)


async def _must_be_open(tx: Transaction, run_id: str) -> None:
    row = await tx.fetch_one("SELECT finished_us, status FROM run WHERE id = ?", run_id)
    if row is None:
        raise NotFound(f"no run {run_id!r}", field="run_id")
    if row[0] is not None:
        raise FailedPrecondition(
            f"run {run_id} has ended, as {row[1]}", reason=Reason.RUN_ENDED, field="run_id"
        )


async def _insert(tx: Transaction, run_id: str, message: Message) -> None:
    rows = await tx.fetch("SELECT kind, position FROM message WHERE run = ?", run_id)
    kinds = [kind for kind, _ in rows]
    kind = WORDS[type(message)]
    if kind == CANCEL and CANCEL in kinds:
        return  # it is asked to end already
    if kinds.count(kind) >= MAX_SIGNALS:
        told = f"{MAX_SIGNALS} {kind.lower()}s"
        raise ResourceExhausted(f"run {run_id} was sent {told}: it takes no more")
    document = asdict(message)
    del document["position"]
    await tx.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?)",
        run_id,
        max((position for _, position in rows), default=0) + 1,
        kind,
        json.dumps(document).encode(),
        await tx.now_ms(),
    )


def _decode(position: int, kind: str, payload: bytes) -> Message:
    document: dict[str, Any] = {**json.loads(bytes(payload)), "position": position}
    return KINDS[kind](**document)
