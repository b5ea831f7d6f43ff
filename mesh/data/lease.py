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

LEASE_MARGIN_S = 1.0  # before the end of a lease: from then on its holder starts nothing

# PostgreSQL only: a SQLite file has one process. A lease that was taken over ends at -infinity.
SCHEMA = """
CREATE TABLE IF NOT EXISTS replica (
    id          TEXT COLLATE "C" PRIMARY KEY,
    incarnation BIGINT NOT NULL,
    lease_until TIMESTAMPTZ NOT NULL
);
"""

# Returns the database's clock in Unix seconds.
REGISTER = """
INSERT INTO replica VALUES ($1, 1, clock_timestamp() + make_interval(secs => $2))
RETURNING EXTRACT(EPOCH FROM clock_timestamp())::float8
"""

# Returns: was the lease renewed; seconds until the first lease of another replica ends; the clock.
RENEW = """
WITH renewed AS (
    UPDATE replica SET lease_until = clock_timestamp() + make_interval(secs => $3)
    WHERE id = $1 AND incarnation = $2 RETURNING 1)
SELECT EXISTS (SELECT 1 FROM renewed),
    (SELECT EXTRACT(EPOCH FROM MIN(lease_until) - clock_timestamp())::float8
     FROM replica WHERE id <> $1 AND lease_until > '-infinity'),
    EXTRACT(EPOCH FROM clock_timestamp())::float8
"""

# The first statement of every takeover. The next one takes the work, and sees all that the retired
# replicas committed before.
RETIRE = """
UPDATE replica SET incarnation = incarnation + 1, lease_until = '-infinity'
WHERE id <> $1 AND lease_until < clock_timestamp() AND lease_until > '-infinity'
RETURNING id
"""

RETIRE_SELF = """
UPDATE replica SET incarnation = incarnation + 1, lease_until = '-infinity'
WHERE id = $1 AND incarnation = $2
"""

FORGET = "DELETE FROM replica WHERE id = ANY($1::text[]) AND lease_until = '-infinity'"


class Lease:
    """The state of a process's own lease. A lost lease is followed by one under a new id."""

    def __init__(self, seconds: float, clock: Clock | None = None) -> None:
        self.seconds = seconds
        self.replica_id = uuid.uuid4().hex
        self.incarnation = 1
        self._clock = clock or SystemClock()
        self._until = float("-inf")
        self._renewed = asyncio.Event()
        self._store_offset: float | None = None  # the store's clock at 0 of the monotonic clock

    @classmethod
    def permanent(cls) -> Lease:
        """Returns a lease that never ends, for a process that is the only one on its store."""
        lease = cls(float("inf"))
        lease.renew(0.0)
        return lease

    @property
    def is_held(self) -> bool:
        """True while the replica may act; false before another replica can take over."""
        return self._clock.monotonic() < self._until - LEASE_MARGIN_S

    def now(self) -> float:
        """Returns the time to pass to ``renew``; read it before the request to the database."""
        return self._clock.monotonic()

    def now_us(self) -> int:
        """Returns Unix microseconds by the store's clock, which decides what is due.

        With SQLite this is the host's clock. With PostgreSQL it is the server's as of the last
        renewal, so a wrong clock of the host makes no difference.
        """
        if self._store_offset is None:
            return int(self._clock.wall() * 1_000_000)
        return int((self._store_offset + self._clock.monotonic()) * 1_000_000)

    def renew(self, asked_at: float, store_now: float | None = None) -> None:
        """Extends the lease that the database renewed at ``asked_at`` or later.

        ``store_now`` is the clock of the database at the renewal, in Unix seconds.
        """
        if store_now is not None:
            self._store_offset = store_now - (asked_at + self._clock.monotonic()) / 2
        self._until = asked_at + self.seconds
        self._renewed.set()

    def reacquire(self) -> None:
        """Replaces a lost lease: the replica gets a new id and loses all work under the old one."""
        self._until = float("-inf")
        self.replica_id = uuid.uuid4().hex

    async def held(self) -> None:
        """Waits until the lease is held."""
        while not self.is_held:
            self._renewed.clear()
            await self._renewed.wait()


@contextmanager
def sole_owner(path: Path) -> Iterator[None]:
    """Locks ``path`` for this process. Raises FailedPrecondition if another process has it.

    The operating system releases the lock of a process that is killed.
    """
    path = path.resolve()  # one lock for all links to it
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"{path} is in use by another process: stop it, or let both share PostgreSQL",
                reason=Reason.STORE_LOCKED,
            ) from None
        yield
    finally:
        os.close(descriptor)
