"""The messages that wait for an actor, and why it accepts none."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from mesh.actor.actor import ActorPassivatedError
from mesh.errors import MeshError, Reason, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from mesh.actor.envelope import Envelope

log = logging.getLogger(__name__)


class Mailbox:
    """A bounded queue; true while a message waits."""

    __slots__ = ("_outage", "_waiting", "is_open", "was_refused")

    def __init__(self) -> None:
        self._waiting: deque[Envelope] | None = None  # None once empty: an idle actor costs less
        self._outage: MeshError | None = None  # of a dependency of the actor
        self.is_open = True
        self.was_refused = False  # a message, since this was last set to False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_paused(self) -> bool:
        return self._outage is not None

    def offer(self, envelope: Envelope, size: int) -> bool:
        """Adds the message, or returns False if it is refused."""
        waiting = self._waiting
        if not self.is_open:
            self.was_refused = True
            return False
        if waiting is None:
            self._waiting = deque((envelope,))
        elif len(waiting) < size:
            waiting.append(envelope)
        else:
            return False
        return True

    def push(self, envelope: Envelope) -> None:
        """Adds a message of the actor to itself, which is never refused."""
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(envelope)

    def pop(self) -> Envelope:
        """Removes and returns the oldest message. Raises IndexError if there is none."""
        assert self._waiting is not None  # noqa: S101  (the mailbox was true)
        return self._waiting.popleft()

    def trim(self) -> None:
        """Frees the memory of the empty queue."""
        if not self._waiting:
            self._waiting = None

    def drop_piped(self) -> None:
        """Drops the results of work that an earlier actor piped."""
        if self._waiting:
            self._waiting = deque(found for found in self._waiting if not found.is_piped)

    def pause(self, outage: MeshError, name: str) -> None:
        """Refuses waiting and later messages until ``resume``."""
        if self._outage is None:
            log.warning("actor %s waits for a dependency: %s", name, outage)
        self._outage, self.is_open = outage, False
        self._reject_all(name)

    def resume(self, name: str) -> None:
        """Accepts messages again after an outage."""
        if self._outage is not None:
            log.warning("actor %s no longer waits for a dependency", name)
            self._outage, self.is_open = None, True

    def close(self, name: str) -> None:
        """Refuses waiting and later messages for ever."""
        self._outage, self.is_open = None, False
        self._reject_all(name)

    def refusal(self, name: str) -> MeshError:
        """Returns why a message is refused."""
        if self._outage is not None:
            return Unavailable(
                f"{name} waits for a dependency: {self._outage}", reason=self._outage.reason
            )
        if self.is_open:
            return ResourceExhausted(
                f"the mailbox of {name} is full; retry later", reason=Reason.MAILBOX_FULL
            )
        return ActorPassivatedError(f"{name} has stopped")

    def _reject_all(self, name: str) -> None:
        while self._waiting:
            self._waiting.popleft().reject(self.refusal(name), name)
