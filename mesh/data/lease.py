"""Leases: which of several replicas may act, by the database's clock.

Every process that shares work is a replica with a row. It renews its lease in time, or another
replica takes its work over. Three things make that safe:

* every commit of a replica locks the replica's own row ``FOR SHARE`` in the same statement, and a
  takeover first changes that row: they are serialized, and the later of the two is fenced;
* a takeover increments the incarnation, so a lost lease never becomes valid again;
* by its own monotonic clock a replica stops acting LEASE_MARGIN_S before its lease can have ended,
  even if it cannot reach the database.

``READ`` locks and joins on an owner's column do neither: they miss a commit in progress.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mesh.clock import SystemClock
from mesh.errors import FailedPrecondition, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mesh.clock import Clock

LEASE_MARGIN_S = 1.0  # seconds before the end of a lease from which on its holder starts nothing

# PostgreSQL alone: a SQLite file has one process. The end of a lease that was taken is -infinity.
SCHEMA = """
CREATE TABLE IF NOT EXISTS replica (
    id          TEXT COLLATE "C" PRIMARY KEY,
    incarnation BIGINT NOT NULL,
    lease_until TIMESTAMPTZ NOT NULL
);
"""

# The database's clock, Unix seconds.
REGISTER = """
INSERT INTO replica VALUES ($1, 1, clock_timestamp() + make_interval(secs => $2))
RETURNING EXTRACT(EPOCH FROM clock_timestamp())::float8
"""

# Whether it was renewed; in how many seconds the first lease of another ends; the same clock.
RENEW = """
WITH renewed AS (
    UPDATE replica SET lease_until = clock_timestamp() + make_interval(secs => $3)
    WHERE id = $1 AND incarnation = $2 RETURNING 1)
SELECT EXISTS (SELECT 1 FROM renewed),
    (SELECT EXTRACT(EPOCH FROM MIN(lease_until) - clock_timestamp())::float8
     FROM replica WHERE id <> $1 AND lease_until > '-infinity'),
    EXTRACT(EPOCH FROM clock_timestamp())::float8
"""

# The first statement of every takeover; the work is taken by the next one, which sees all that the
# dead committed before.
RETIRE = """
UPDATE replica SET incarnation = incarnation + 1, lease_until = '-infinity'
WHERE id <> $1 AND lease_until < clock_timestamp() AND lease_until > '-infinity'
RETURNING id
"""

RETIRE_OURSELVES = """
UPDATE replica SET incarnation = incarnation + 1, lease_until = '-infinity'
WHERE id = $1 AND incarnation = $2
"""

FORGET = "DELETE FROM replica WHERE id = ANY($1::text[]) AND lease_until = '-infinity'"


class Lease:
    """What a process knows of its own lease. A new life begins under a new id."""

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        self.seconds = seconds
        self.replica_id = uuid.uuid4().hex
        self.incarnation = 1
        self._clock = clock or SystemClock()
        self._until = float("-inf")
        self._renewed = asyncio.Event()
        self._store_began: float | None = None  # the store's clock when our monotonic one was 0

    @classmethod
    def permanent(cls) -> Lease:
        """Returns a lease that never ends, for a process that is the only one on its store."""
        lease = cls(float("inf"))
        lease.renew(0.0)
        return lease

    @property
    def is_held(self) -> bool:
        """May we act? Never later than anybody else may think that we are gone."""
        return self._clock.monotonic() < self._until - LEASE_MARGIN_S

    def now(self) -> float:
        """To be noted before the database is asked to renew."""
        return self._clock.monotonic()

    def now_us(self) -> int:
        """Unix microseconds by the store's clock: the one by which what is due is due.

        Without a server that is this host's. Else it is the server's, as of the last renewal: a
        host whose clock is wrong or jumps is not early or late for it.
        """
        if self._store_began is None:
            return int(self._clock.wall() * 1_000_000)
        return int((self._store_began + self._clock.monotonic()) * 1_000_000)

    def renew(self, asked_at: float, store_now: float | None = None) -> None:
        """The database renewed it, at ``asked_at`` or later, when its clock was ``store_now``."""
        if store_now is not None:
            self._store_began = store_now - (asked_at + self._clock.monotonic()) / 2
        self._until = asked_at + self.seconds
        self._renewed.set()

    def reacquire(self) -> None:
        """It was taken from us: what was ours is not, and nothing may be done under the old id."""
        self._until = float("-inf")
        self.replica_id = uuid.uuid4().hex

    async def held(self) -> None:
        """Return once we may act."""
        while not self.is_held:
            self._renewed.clear()
            await self._renewed.wait()


@contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Keep every other process from ``path``; FailedPrecondition if one has it.

    The system takes the lock back from a process that is killed.
    """
    path = path.resolve()  # by whatever link it is reached
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"{path} belongs to a process that runs: stop it, or let both share PostgreSQL",
                reason=Reason.STORE_LOCKED,
            ) from None
        yield
    finally:
        os.close(descriptor)
