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
from mesh.actor.envelope import Envelope, InContext, PipedFailure, PipedResult, awaits, current_turn
from mesh.actor.mailbox import EMPTY, Mailbox
from mesh.actor.supervision import Failures, failure_of, is_cancelled, outage_of, stop, uncancelled
from mesh.errors import FailedPrecondition, MeshError, Reason, Unavailable

if TYPE_CHECKING:
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
        "_intent",
        "_left",
        "_mailbox",
        "_turns",
        "home",
        "idle_at",
        "key",
        "turn",
        "watched_at",
    )

    def __init__(self, home: Home, key: Any, build: Build) -> None:
        self.home = home
        self.key = key
        self.turn: Envelope | None = None  # in progress
        self.idle_at = 0.0  # when it passivates unless a message comes; only if watched
        self.watched_at: int | None = None  # the tick of the idle timer that it waits for
        self._build = build
        self._actor: Actor[Any] | None = None
        self._context: ActorContext[Any] = ActorContext(self)  # of the actor
        self._mailbox = Mailbox(home.supervision.mailbox_size)
        self._drainer: asyncio.Task[None] | None = None  # the task that has the turns
        self._turns = 0  # since it last yielded to the loop
        self._deferred: Piped | None = None  # begins after the turn
        self._intent = RUN
        self._failures: Failures | None = None
        self._left: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        return self.home.name(self.key)

    @property
    def is_idle(self) -> bool:
        return self._drainer is None and self._intent == RUN

    def post(self, envelope: Envelope) -> None:
        """Adds the message to the mailbox, or raises why it is refused."""
        mailbox = self._mailbox
        waiting = mailbox.waiting
        if len(waiting) >= mailbox.room:
            raise mailbox.refusal(self.name)
        if waiting is EMPTY:
            waiting = mailbox.opened()
        waiting.append(envelope)
        if self._drainer is None:
            self._drainer = self._spawn(None)

    def start(self) -> None:
        """Gives a task the turns, unless one has them."""
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
        self._mailbox.shut()
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
        drainer = self._drainer
        stops = self._context.is_closed and self._actor is not None
        if drainer is not None and not stops:  # on_stop is called once, and may end
            drainer.cancel()
        self._context.close()
        self._drainer = self.home.loop.create_task(
            self._end_after(drainer), name=f"stop {self.name}", context=self.home.new_context()
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
        """Performs the work: after the current turn if it is the first, or else in a new task.

        The start of the actor counts as a turn.
        """
        if self._deferred is None and (self.turn is not None or self._actor is None):
            self._deferred = piped
        else:
            self._spawn(piped)

    def stopped(self) -> Unavailable:
        """Returns the error of an actor that stopped after it began to receive the message."""
        return Unavailable(f"{self.name} has stopped", reason=Reason.ACTOR_STOPPED)

    def _spawn(self, work: Piped | None) -> asyncio.Task[None]:
        home = self.home
        name = home.name(self.key)
        return home.loop.create_task(
            self._run(work),
            name=name if work is None else f"{name}: {work.name}",
            context=home.new_context(),
        )

    async def _run(self, work: Piped | None) -> None:
        """Performs the work, if any, then receives messages until none waits, and so on."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (only tasks run coroutines)
        try:
            while True:
                if work is not None:
                    context, result = self._context, await work.perform(task)
                    if context is not self._context or not self._takes_turns(result):
                        return
                    self._drainer = task
                try:
                    work = await self._receive_until_idle()
                except Exception as error:
                    work = None
                    if not await self._restarts(error):
                        return
                else:
                    if work is None:
                        return
        except asyncio.CancelledError:
            if self._intent < ABORT and self._drainer is task:  # the loop closes
                self._context.close()
                self._end(None)
            raise

    def _takes_turns(self, result: PipedResult | None) -> bool:
        """Adds the result to the mailbox, and returns whether its task is to have the turns now."""
        if self._intent >= ABORT:
            return False
        waiting = self._mailbox.waiting
        if result is not None:
            if waiting is EMPTY:
                waiting = self._mailbox.opened()
            waiting.append(result)
        return self._drainer is None and (bool(waiting) or self._intent == DRAIN)

    async def _receive_until_idle(self) -> Piped | None:
        """Receives messages until none waits; returns the work to perform then.

        Raises what makes the actor fail. Returns None if there is no work, or the actor has left.
        """
        if self._actor is None and not await self._start():
            return None
        if self._intent == PASSIVATE and not await self._may_leave():
            return self._hand_over()
        assert self._actor is not None  # noqa: S101  (it has started)
        waiting, receive, turns = self._mailbox.waiting, self._actor.receive, self._turns
        try:
            while waiting and self._intent < LEAVE:
                if self._deferred is not None:
                    self._spawn(self._deferred)
                    self._deferred = None
                envelope = waiting.popleft()
                reply, context = envelope.reply, envelope.context
                if reply is not None and reply.done():
                    continue  # the asker no longer waits
                if type(envelope) is PipedFailure:
                    raise envelope.message
                self.turn = envelope
                try:
                    if context is None:
                        current_turn.set(envelope)
                        result = await receive(envelope.message)
                    else:
                        envelope.context = None  # or each would keep the other in memory
                        context.run(current_turn.set, envelope)
                        result = await InContext(receive(envelope.message), context)
                    if reply is not None and not reply.done():
                        reply.set_result(result)
                except MeshError as refusal:
                    envelope.reject(refusal, self.name)
                except Exception as error:
                    self._mailbox.reject_failed(envelope, error, self.name)
                    raise
                except asyncio.CancelledError as error:
                    if is_cancelled():
                        envelope.reject(self.stopped(), self.name)
                        raise
                    self._mailbox.reject_failed(envelope, error, self.name)
                    raise failure_of(error) from error
                turns += 1
                if turns == TURNS_PER_YIELD:
                    self.turn, turns = None, 0
                    await asyncio.sleep(0)
        finally:
            self.turn, self._turns = None, turns
        if self._intent == RUN or (self._intent == DRAIN and self._context.drains()):
            return self._idle()
        return self._hand_over() if await self._is_activated_again() else None

    async def _start(self) -> bool:
        """Builds the actor. Returns False if it left memory while a dependency was unavailable."""
        retries = 0
        while True:
            self._context = ActorContext(self)
            try:
                actor = await uncancelled(self._build(self._context))
                if type(actor).on_start is not Actor.on_start:
                    await uncancelled(actor.on_start())
            except Exception as error:
                await self._release()
                outage = outage_of(error)
                if outage is None:
                    self._mailbox.resume(self.name)
                    raise
                self._mailbox.pause(outage, self.name)
                if self._gives_up(DRAIN, error):
                    return False
            else:
                self._actor = actor
                if self._mailbox.is_paused:
                    self._mailbox.resume(self.name)
                return True
            self._mailbox.was_refused = False
            await asyncio.sleep(0)  # a clock may take no time for no seconds
            await self.home.clock.sleep(self.home.supervision.backoff(retries))
            retries += 1
            if not self._mailbox.was_refused and self.home.rebuild(self.key) is not None:
                self._end(None)  # the next message activates it
                return False

    async def _restarts(self, error: Exception) -> bool:
        """Stops the failed actor. Returns False if it is not to be built again."""
        outage = outage_of(error)
        if outage is None:
            log.error("actor %s failed", self.name, exc_info=error)
        else:
            self._mailbox.pause(outage, self.name)
        await self._release()
        if self._gives_up(LEAVE, error):
            return False
        if self._intent == PASSIVATE:
            self._intent = RUN
        self._failures = self._failures or Failures()
        delay_s = self._failures.add(self.home.clock.monotonic(), self.home.supervision, outage)
        if delay_s is None:
            log.error("actor %s failed too often: stopped", self.name)
            self._end(error)
            return False
        await asyncio.sleep(0)  # a clock may take no time for no seconds
        await self.home.clock.sleep(delay_s)
        return True

    def _gives_up(self, least: int, error: Exception) -> bool:
        """Ends the failed cell if it is to leave anyway; returns whether it is."""
        if least <= self._intent < ABORT:
            self._end(error)
        return self._intent >= least

    async def _may_leave(self) -> bool:
        """Returns whether no message waits and the actor agrees to leave memory."""
        assert self._actor is not None  # noqa: S101  (it has started)
        if self._mailbox.waiting:
            self._intent = RUN
            return False
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
        build = self.home.rebuild(self.key)
        if build is None or not self._mailbox.waiting:
            self._end(None)
            return False
        self._build, self._intent = build, RUN if self._mailbox.is_open else DRAIN
        return True

    async def _release(self) -> None:
        """Cancels the actor's work, and stops the actor."""
        self._deferred = None
        timeout_s = self.home.supervision.stop_timeout_s
        await self._context.closed(timeout_s)
        self._mailbox.drop_piped()
        if self._actor is not None:
            await stop(self._actor, timeout_s, self.name)
            self._actor = None

    async def _end_after(self, drainer: asyncio.Task[None] | None) -> None:
        if drainer is not None:
            await asyncio.wait([drainer])
        await self._release()
        self._end(None)

    def _hand_over(self) -> Piped | None:
        """Leaves what is to be done to another task: this one counts as one that passivates."""
        if not self._mailbox.waiting and self._intent == RUN:
            return self._idle()
        self._drainer = self._spawn(None)
        return None

    def _idle(self) -> Piped | None:
        """Gives up the turns; returns the work to perform then."""
        if self._intent == RUN:
            self.home.idle(self, self._actor)
        self._drainer = None
        work, self._deferred = self._deferred, None
        if work is None or work.daemon:  # it may be long until the next message
            self._mailbox.waiting = EMPTY
        return work

    def _end(self, error: Exception | None) -> None:
        self._intent = LEFT
        self._mailbox.close(self.name)
        self._drainer = self._actor = None
        self.home.left(self, error)
        if self._left is not None and not self._left.done():
            self._left.set_result(None)
