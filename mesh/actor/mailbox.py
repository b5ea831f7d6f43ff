"""The messages that wait for an actor, and why it accepts none."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from mesh.actor.actor import ActorPassivatedError
from mesh.actor.supervision import outage_of
from mesh.errors import MeshError, Reason, ResourceExhausted, Unavailable

if TYPE_CHECKING:
    from mesh.actor.envelope import Envelope

log = logging.getLogger(__name__)


EMPTY: Final[deque[Envelope]] = deque()  # that of every idle actor; nothing is added to it


class Mailbox:
    """A bounded queue. The cell reads and fills ``waiting`` itself: it is the path of each message.

    A message may be added while fewer than ``room`` wait.
    """

    __slots__ = ("_outage", "_size", "room", "waiting", "was_refused")

    def __init__(self, size: int) -> None:
        self.waiting = EMPTY
        self.room = size
        self.was_refused = False  # a message, since this was last set to False
        self._size = size
        self._outage: MeshError | None = None  # of a dependency of the actor

    @property
    def is_paused(self) -> bool:
        return self._outage is not None

    @property
    def is_open(self) -> bool:
        return self.room > 0

    def opened(self) -> deque[Envelope]:
        """Returns the queue, to which messages may be added."""
        if self.waiting is EMPTY:
            self.waiting = deque()
        return self.waiting

    def drop_piped(self) -> None:
        """Drops the results of work: the actor that piped it is gone."""
        if self.waiting:
            self.waiting = deque(found for found in self.waiting if not found.is_piped)

    def pause(self, outage: MeshError, name: str) -> None:
        """Refuses waiting and later messages until ``resume``."""
        if self._outage is None:
            log.warning("actor %s waits for a dependency: %s", name, outage)
        self._outage, self.room = outage, 0
        self._reject_all(name)

    def resume(self, name: str) -> None:
        """Accepts messages again after an outage."""
        if self._outage is not None:
            log.warning("actor %s no longer waits for a dependency", name)
            self._outage, self.room = None, self._size

    def shut(self) -> None:
        """Refuses later messages for ever."""
        self._outage, self._size, self.room = None, 0, 0

    def close(self, name: str) -> None:
        """Refuses waiting and later messages for ever."""
        self.shut()
        self._reject_all(name)

    def refusal(self, name: str) -> MeshError:
        """Notes that a message is refused, and returns why."""
        self.was_refused = True
        if self._outage is not None:
            return Unavailable(
                f"{name} waits for a dependency: {self._outage}", reason=self._outage.reason
            )
        if self.room:
            return ResourceExhausted(
                f"the mailbox of {name} is full; retry later", reason=Reason.MAILBOX_FULL
            )
        return ActorPassivatedError(f"{name} has stopped")

    def reject_failed(self, envelope: Envelope, error: BaseException, name: str) -> None:
        """Rejects the message that the actor failed on; pauses if that is due to an outage."""
        if outage := outage_of(error):
            self.pause(outage, name)
            envelope.reject(self.refusal(name), name)
        else:
            envelope.reject(Unavailable(f"{name} failed on this message"), name)

    def _reject_all(self, name: str) -> None:
        while self.waiting:
            self.waiting.popleft().reject(self.refusal(name), name)
