"""A message on its way: with where its reply goes, and the context that its turn runs in."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine, Generator
    from contextvars import Context

T = TypeVar("T")

log = logging.getLogger(__name__)


class Envelope:
    """One message in a mailbox. The envelope also names the turn that receives it."""

    __slots__ = ("asker", "context", "message", "reply")

    is_piped = False

    def __init__(
        self,
        message: Any,
        reply: asyncio.Future[Any] | None,  # None: sent by tell
        context: Context | None,  # None: the turn runs in the context of the cell's task
        asker: Envelope | None,  # the turn that waits for the reply
    ) -> None:
        self.message = message
        self.reply = reply
        self.context = context
        self.asker = asker

    def reject(self, error: Exception, actor: str) -> None:
        """Raises the error in the asker; logs a message that has none."""
        if self.reply is None:
            log.warning("dead letter: %s did not receive %r: %s", actor, type(self.message), error)
        elif not self.reply.done():
            self.reply.set_exception(error)


class PipedResult(Envelope):
    """A message of the actor to itself: the result of work that it piped."""

    __slots__ = ()

    is_piped = True

    def reject(self, error: Exception, actor: str) -> None:
        """Drops it: the actor that piped the work is gone."""


class PipedFailure(PipedResult):
    """An exception, as the message, that the work raised: the actor has failed."""

    __slots__ = ()


# The turn that the current code runs in. Work piped by a turn may see a turn that has ended.
current_turn: ContextVar[Envelope | None] = ContextVar("current_turn", default=None)


def awaits(other: Envelope | None, turn: Envelope | None) -> bool:
    """Returns whether the turn ``other`` can end only after ``turn`` has, by a chain of asks."""
    if other is None:
        return False
    while turn is not None and turn is not other:
        reply = turn.reply
        turn = None if reply is None or reply.done() else turn.asker  # it has its reply
    return turn is not None


class InContext:
    """Awaits a coroutine in a context other than its task's, for less than a second task costs."""

    __slots__ = ("_context", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T], context: Context) -> None:
        self._coroutine = coroutine
        self._context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        run = self._context.run
        step: Any = self._coroutine.send
        value: Any = None
        while True:
            try:
                awaited = run(step, value)
            except StopIteration as end:
                return end.value
            try:
                value = yield awaited
                step = self._coroutine.send
            except BaseException as error:  # of the task: the coroutine decides what it means
                step, value = self._coroutine.throw, error
