"""One actor in memory: its turns, its piped work, and its supervision.

A cell has a task only while a message waits or a turn runs. The task that has the turns
(``_drainer``) takes messages until none waits, and then performs the first work that the last turn
piped; it gives up the turns for that time, so that a message that arrives starts another task.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, final

from mesh.actor.actor import Actor
from mesh.actor.context import ActorContext
from mesh.actor.envelope import Envelope, InContext, awaits, current_turn
from mesh.actor.mailbox import Mailbox
from mesh.actor.ref import ActorRef
from mesh.actor.supervision import Failures, outage_of, raise_if_cancelled, uncancelled
from mesh.errors import FailedPrecondition, MeshError, Reason, Unavailable

if TYPE_CHECKING:
    from contextvars import Context

    from mesh.actor.home import Build, Home
    from mesh.actor.piped import Piped

TURNS_PER_YIELD = 64  # so that a long mailbox does not delay other actors

# What a cell does once its current turn has ended; the higher one wins.
RUN: Final = 0
PASSIVATE: Final = 1  # if no message waits, and the actor agrees
DRAIN: Final = 2  # leave once no message waits and no work is in flight
LEAVE: Final = 3  # now
ABORT: Final = 4  # another task ends the cell
LEFT: Final = 5

log = logging.getLogger(__name__)


@final
class Cell:
    """An actor in memory, under a key of its registry."""

    __slots__ = (
        "_actor",
        "_build",
        "_context",
        "_deferred",
        "_drainer",
        "_failures",
        "_home",
        "_intent",
        "_left",
        "_mailbox",
        "_turns",
        "idle_at",
        "key",
        "turn",
        "watched_at",
    )

    def __init__(self, home: Home, key: Any, build: Build) -> None:
        self.key = key
        self.turn: Envelope | None = None  # in progress
        self.idle_at: float | None = None  # when it passivates unless a message comes
        self.watched_at: int | None = None  # the tick of the idle timer that it waits for
        self._home = home
        self._build = build
        self._actor: Actor[Any] | None = None
        self._context: ActorContext[Any] = ActorContext(self)  # of the actor
        self._mailbox = Mailbox()
        self._drainer: asyncio.Task[None] | None = None  # the task that has the turns
        self._turns = 0
        self._deferred: Piped | None = None  # begins after the turn
        self._intent = RUN
        self._failures: Failures | None = None
        self._left: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        return self._home.name(self.key)

    @property
    def ref(self) -> ActorRef[Any]:
        return ActorRef(self._home, self.key)

    @property
    def is_idle(self) -> bool:
        return self._drainer is None and self._intent == RUN

    def post(self, envelope: Envelope) -> None:
        """Adds the message to the mailbox, or raises why it is refused."""
        if not self._mailbox.offer(envelope, self._home.supervision.mailbox_size):
            raise self._mailbox.refusal(self.name)
        if self._drainer is None:
            self._drainer = self._spawn(None)

    def start(self) -> None:
        """Starts the actor without a message."""
        if self._drainer is None:
            self._drainer = self._spawn(None)

    def passivate(self) -> asyncio.Task[None] | None:
        """Passivates the actor, and returns the task that does, or None if it is not idle."""
        if not self.is_idle:
            return None
        self._intent = PASSIVATE
        self.start()
        return self._drainer

    def leave(self) -> None:
        """Makes the actor leave memory after the current turn."""
        self._intent = max(self._intent, LEAVE)
        self.start()

    def drain(self) -> None:
        """Makes the actor leave memory after all messages and work; refuses later messages."""
        if self._mailbox.is_paused:
            self.abort()  # no message waits, and the dependency may be away for long
            return
        self._mailbox.is_open = False
        self._intent = max(self._intent, DRAIN)
        self.start()

    def abort(self) -> None:
        """Cancels turn and work, and rejects all messages; later ones are refused."""
        if self._intent >= ABORT:
            return
        self._intent = ABORT
        if self.turn is not None:
            self.turn.reject(self.stopped(), self.name)
        self._mailbox.close(self.name)
        self._close()
        drainer = self._drainer
        if drainer is not None:
            drainer.cancel()
        self._drainer = asyncio.create_task(
            self._end_after(drainer), name=f"stop {self.name}", context=self._home.new_context()
        )

    def require_outside(self) -> None:
        """Raises FailedPrecondition (ASK_CYCLE) in a turn or in piped work of the actor itself."""
        performs = self._context.performs_in(asyncio.current_task())
        if performs or awaits(self.turn, current_turn.get()):
            raise FailedPrecondition(
                f"{self.name} cannot wait for its own end; use ActorContext.stop",
                reason=Reason.ASK_CYCLE,
            )

    async def has_left(self) -> None:
        """Returns once the actor has left memory."""
        if self._intent == LEFT:
            return
        if self._left is None:
            self._left = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._left])  # does not cancel it if this wait is cancelled

    def begin(self, piped: Piped) -> None:
        """Performs the work: after the current turn if it is the first, or else in a new task."""
        if self.turn is not None and self._deferred is None:
            self._deferred = piped
        else:
            self._spawn(piped)

    def capture(self) -> Context | None:
        """Returns a copy of the current context, or None if messages do not carry it."""
        return self._home.capture()

    def stopped(self) -> Unavailable:
        """Returns the error of an actor that stopped after it began to receive the message."""
        return Unavailable(f"{self.name} has stopped", reason=Reason.ACTOR_STOPPED)

    def _spawn(self, work: Piped | None) -> asyncio.Task[None]:
        return asyncio.create_task(
            self._run(work),
            name=self.name if work is None else f"{self.name}: {work.name}",
            context=self._home.new_context(),
        )

    async def _run(self, work: Piped | None) -> None:
        """Performs the work, if any, then receives messages until none waits, and so on."""
        while work is None or await self._perform(work):
            work = await self._receive_all()
            if work is None:
                return

    async def _perform(self, work: Piped) -> bool:
        """Performs the work, and returns whether the current task has the turns now."""
        context = self._context
        outcome = await work.perform()
        if context is not self._context or self._intent >= ABORT:
            return False  # the actor is gone
        if outcome is not None:
            self._mailbox.push(outcome)
        if self._drainer is not None or not (self._mailbox or self._intent == DRAIN):
            return False
        self._drainer = asyncio.current_task()
        return True

    async def _receive_all(self) -> Piped | None:
        """Receives messages, also after failures; returns the work to perform afterwards."""
        try:
            while True:
                try:
                    return await self._receive_until_idle()
                except Exception as error:
                    if not await self._restarts(error):
                        return None
        except asyncio.CancelledError:
            if self._intent < ABORT:  # the loop closes
                self._close()
                self._end(None)
            raise

    async def _receive_until_idle(self) -> Piped | None:
        mailbox = self._mailbox
        while True:
            if self._actor is None and not await self._start():
                return None
            if mailbox and self._intent == PASSIVATE:
                self._intent = RUN  # a message came first
            while mailbox and self._intent < LEAVE:
                await self._receive(mailbox.pop())
                self._turns += 1
                if self._turns % TURNS_PER_YIELD == 0:
                    await asyncio.sleep(0)
                if self._deferred is not None and (mailbox or self._intent >= LEAVE):
                    self._spawn(self._deferred)
                    self._deferred = None
            if self._intent == RUN or (self._intent == DRAIN and self._context.drains()):
                return self._idle()
            if self._intent == PASSIVATE and not await self._may_leave():
                continue
            if not await self._is_activated_again():
                return None

    async def _receive(self, envelope: Envelope) -> None:
        """Receives one message. Raises what makes the actor fail."""
        if envelope.failure is not None:
            raise envelope.failure
        if envelope.reply is not None and envelope.reply.done():
            return  # the asker no longer waits
        assert self._actor is not None  # noqa: S101  (it has started)
        context, envelope.context = envelope.context, None
        self.turn = envelope
        try:
            if context is None:
                current_turn.set(envelope)
                result = await self._actor.receive(envelope.message)
            else:
                context.run(current_turn.set, envelope)
                result = await InContext(self._actor.receive(envelope.message), context)
        except MeshError as refusal:
            envelope.reject(refusal, self.name)
        except Exception as error:
            self._reject_failed(envelope, error)
            raise
        except asyncio.CancelledError as error:
            raise_if_cancelled()
            self._reject_failed(envelope, error)
            raise RuntimeError("a task that it awaited was cancelled") from None
        else:
            envelope.resolve(result)
        finally:
            self.turn = None

    def _reject_failed(self, envelope: Envelope, error: BaseException) -> None:
        if outage := outage_of(error):
            self._mailbox.pause(outage, self.name)
            envelope.reject(self._mailbox.refusal(self.name), self.name)
        else:
            envelope.reject(Unavailable(f"{self.name} failed on this message"), self.name)

    async def _start(self) -> bool:
        """Builds the actor. Returns False if it left memory while a dependency was unavailable."""
        retries = 0
        while True:
            self._context = ActorContext(self)
            try:
                actor = await uncancelled(self._build(self._context))
                await uncancelled(actor.on_start())
            except Exception as error:
                await self._release()
                outage = outage_of(error)
                if outage is None:
                    self._mailbox.resume(self.name)
                    raise
                self._mailbox.pause(outage, self.name)
            else:
                self._actor = actor
                self._mailbox.resume(self.name)
                return True
            self._mailbox.was_refused = False
            await self._home.clock.sleep(self._home.supervision.backoff(retries))
            retries += 1
            if not self._mailbox.was_refused and self._home.rebuild(self.key) is not None:
                self._end(None)  # the next message activates it
                return False

    async def _restarts(self, error: Exception) -> bool:
        """Stops the failed actor. Returns False if it is not to be built again."""
        supervision, outage = self._home.supervision, outage_of(error)
        if outage is None:
            log.error("actor %s failed", self.name, exc_info=error)
        else:
            self._mailbox.pause(outage, self.name)
        await self._release()
        if self._intent >= LEAVE:
            if self._intent == LEAVE:
                self._end(error)
            return False
        if outage is not None:
            return True
        if self._failures is None:
            self._failures = Failures()
        recent = self._failures.add(self._home.clock.monotonic(), supervision.window_s)
        if recent > supervision.max_restarts:
            log.error("actor %s failed %d times: stopped", self.name, recent)
            self._end(error)
            return False
        if recent > 1:
            await self._home.clock.sleep(supervision.backoff(recent - 2))
        return True

    async def _may_leave(self) -> bool:
        """Returns whether the idle actor agrees to leave memory."""
        assert self._actor is not None  # noqa: S101  (it has started)
        try:
            agrees = await uncancelled(self._actor.passivate())
        except MeshError as error:
            log.warning("actor %s stays in memory: %s", self.name, error)
            agrees = False
        if agrees:  # wins over a drain that began since: the actor may have given up its state
            self._intent = max(self._intent, LEAVE)
        elif self._intent == PASSIVATE:
            self._intent = RUN
        return agrees

    async def _is_activated_again(self) -> bool:
        """Stops the actor. Returns True if messages wait that the registry can build it for."""
        await self._release()
        if self._intent >= ABORT:
            return False
        self._mailbox.drop_piped()
        build = self._home.rebuild(self.key)
        if build is None or not self._mailbox or not self._mailbox.is_open:
            self._end(None)
            return False
        self._build, self._intent = build, RUN
        return True

    async def _release(self) -> None:
        """Cancels the actor's work, and stops the actor."""
        actor, self._actor = self._actor, None
        timeout_s = self._home.supervision.stop_timeout_s
        self._deferred = None
        await self._context.closed(timeout_s)
        if actor is None or type(actor).on_stop is Actor.on_stop:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await uncancelled(actor.on_stop())
        except Exception:
            log.exception("actor %s did not stop in order", self.name)

    async def _end_after(self, drainer: asyncio.Task[None] | None) -> None:
        if drainer is not None:
            await asyncio.wait([drainer])
        await self._release()
        self._end(None)

    def _idle(self) -> Piped | None:
        """Gives up the turns; returns the work to perform then."""
        if self._intent == RUN and self._actor is not None:
            self._home.idle(self, self._actor)
        self._drainer = None
        self._mailbox.trim()
        work, self._deferred = self._deferred, None
        return work

    def _close(self) -> None:
        """Cancels the actor's work."""
        self._deferred = None
        self._context.close()

    def _end(self, error: Exception | None) -> None:
        self._intent = LEFT
        self._mailbox.close(self.name)
        self._drainer = self._actor = None
        self._home.left(self, error)
        if self._left is not None and not self._left.done():
            self._left.set_result(None)
