"""A quota of the runs that one client has begun and that have not ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import Reason, ResourceExhausted

if TYPE_CHECKING:
    from mesh.data.idempotency import IdempotencyKey
    from services.orchestrator.store.run_store import RunStore

MAX_AGE_S = 10.0  # of a count: runs of the client have ended since
RECOUNT_DELAY_S = 0.2  # between counts of a client that has used up its quota
MAX_CLIENTS = 4096  # counts in memory


@dataclass(slots=True)
class _Count:
    """The runs of a client that had not ended, and those that it has started since."""

    runs: int
    counted: float  # monotonic time


class RunQuota:
    """Counts in the store, but seldom: in between each start adds one, and no end subtracts."""

    def __init__(self, store: RunStore, most: int) -> None:
        self._store = store
        self._most = most
        self._counts: dict[str, _Count] = {}

    async def admit(self, key: IdempotencyKey) -> None:
        """Takes one run of the caller; a repeated start takes none.

        Raises ResourceExhausted (RUN_QUOTA_EXCEEDED) if the caller has as many as it may.
        """
        client, now = key.caller, time.monotonic()
        count = self._counts.get(client)
        if count is None or now - count.counted > self._patience_s(count):
            runs = await self._store.query.count_unfinished(client, self._most)
            count = self._remember(client, _Count(runs, now))
        if count.runs >= self._most:
            if await self._store.messages.first_reply(key) is not None:
                return
            raise ResourceExhausted(
                f"{self._most} runs of this client have not ended: cancel some, or wait for them",
                reason=Reason.RUN_QUOTA_EXCEEDED,
                retry_after=MAX_AGE_S,
            )
        count.runs += 1

    def _patience_s(self, count: _Count) -> float:
        return RECOUNT_DELAY_S if count.runs >= self._most else MAX_AGE_S

    def _remember(self, client: str, count: _Count) -> _Count:
        if len(self._counts) >= MAX_CLIENTS:
            self._counts.clear()
        self._counts[client] = count
        return count
