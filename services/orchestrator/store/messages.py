"""What is sent to runs: kept beside their journals, taken in order by whoever drives them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.data import idempotency
from mesh.errors import FailedPrecondition, Reason, ResourceExhausted
from services.orchestrator.engine.activations import Approved, CancelRequested, Signalled
from services.orchestrator.store.deletion import missing
from services.orchestrator.store.suspension import ASLEEP, wake

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey

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


@dataclass(frozen=True, slots=True)
class SendResult:
    reply: bytes  # the first one to this key
    awake: bool  # the run was not asleep when this was stored; False if that was before


@dataclass(frozen=True, slots=True)
class DuplicateRequest:
    """What the store has of an open run and of what was sent to it."""

    sleeps: bool
    counts: Mapping[str, int]  # by kind
    last: int  # position of the last one, 0 before the first


class Messages:
    """A message is taken when its run has journalled one of its position: nothing is deleted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first_reply(self, key: IdempotencyKey) -> bytes | None:
        """What was answered to the first call under ``key``, see mesh/data/idempotency.py."""

        async def work(tx: Transaction) -> bytes | None:
            return await idempotency.find_reply(tx, key)

        return await self._database.read(work)

    async def send(
        self, key: IdempotencyKey, run_id: str, message: Message, reply: bytes = b""
    ) -> SendResult:
        """Store it once per ``key``.

        NotFound for an unknown run, FailedPrecondition for one that has ended, ResourceExhausted
        for one that was sent too much.
        """

        async def work(tx: Transaction) -> SendResult:
            awake = False

            async def effect() -> bytes:
                nonlocal awake
                held = await _find(tx, run_id)
                awake = not held.sleeps
                if _takes(run_id, held, message):
                    await self._store(tx, run_id, held, message)
                return reply

            return SendResult(await idempotency.run_once(tx, key, effect), awake)

        return await self._database.write(work)

    async def _store(
        self, tx: Transaction, run_id: str, held: DuplicateRequest, message: Message
    ) -> None:
        await insert(tx, run_id, held, message)
        if held.sleeps:
            await wake(tx, run_id)

    async def waiting(self, run_id: str, *, taken: int) -> list[Message]:
        """Those behind the position ``taken``, in order."""

        async def work(tx: Transaction) -> list[Message]:
            rows = await tx.fetch(
                "SELECT position, kind, payload FROM message WHERE run = ? AND position > ?"
                " ORDER BY position",
                run_id,
                taken,
            )
            return [decode(position, kind, payload) for position, kind, payload in rows]

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


async def _find(tx: Transaction, run_id: str) -> DuplicateRequest:
    """NotFound for an unknown run, FailedPrecondition for one that has ended."""
    rows = await tx.fetch(
        "SELECT run.finished_us, run.status, run.owner, message.kind, COUNT(message.run),"
        " COALESCE(MAX(message.position), 0)"
        " FROM run LEFT JOIN message ON message.run = run.id WHERE run.id = ?"
        " GROUP BY run.finished_us, run.status, run.owner, message.kind",
        run_id,
    )
    if not rows:
        raise await missing(tx, run_id)
    finished_us, status, owner = rows[0][:3]
    if finished_us is not None:
        raise FailedPrecondition(
            f"run {run_id} has ended, as {status}", reason=Reason.RUN_ENDED, field="run_id"
        )
    counts = {kind: count for *_, kind, count, _ in rows}
    return DuplicateRequest(owner == ASLEEP, counts, max(row[-1] for row in rows))


def _takes(run_id: str, held: DuplicateRequest, message: Message) -> bool:
    """False if what it asks for was asked for before. ResourceExhausted."""
    kind, _, most = encode(message)
    if held.counts.get(kind, 0) < most:
        return True
    if kind != CANCEL:
        raise ResourceExhausted(f"run {run_id} was sent {most} {kind.lower()}s: it takes no more")
    return False


async def insert(tx: Transaction, run_id: str, held: DuplicateRequest, message: Message) -> None:
    kind, payload, _ = encode(message)
    sent_ms = await tx.now_ms()
    await tx.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?)", run_id, held.last + 1, kind, payload, sent_ms
    )


def encode(message: Message) -> tuple[str, bytes, int]:
    """Its kind, what is stored of it, and how many of its kind a run takes."""
    kind = WORDS[type(message)]
    document = asdict(message)
    del document["position"]
    return kind, json.dumps(document).encode(), 1 if kind == CANCEL else MAX_SIGNALS


def decode(position: int, kind: str, payload: bytes) -> Message:
    document: dict[str, Any] = {**json.loads(bytes(payload)), "position": position}
    return KINDS[kind](**document)
