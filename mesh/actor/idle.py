"""One timer for all idle actors of a registry: they have none of their own."""

from __future__ import annotations

import asyncio
from contextvars import Context
from heapq import heappop, heappush
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.actor.cell import Cell
    from mesh.clock import Clock

TICK_S = 0.01
MAX_PASSIVATING = 256  # cells at once: each may write to a store
CELLS_PER_YIELD = 256


class IdleTimer:
    """Passivates each cell that is still idle at its ``idle_at``, at most one tick later."""

    def __init__(self, clock: Clock, *, name: str) -> None:
        self._clock = clock
        self._now = clock.monotonic
        self._name = name
        self._ticks: list[int] = []  # a heap of the keys of _cells
        self._cells: dict[int, set[Cell]] = {}
        self._passivating = asyncio.Semaphore(MAX_PASSIVATING)
        self._task: asyncio.Task[None] | None = None
        self._sleeps_until: int | None = None  # None: it does not sleep

    def watch(self, cell: Cell, timeout_s: float) -> None:
        """Passivates the cell unless it has a turn within ``timeout_s`` seconds."""
        cell.idle_at = idle_at = self._now() + timeout_s
        watched_at = cell.watched_at
        if watched_at is None or idle_at < (watched_at - 1) * TICK_S:
            self._move(cell, ceil(idle_at / TICK_S))

    def forget(self, cell: Cell) -> None:
        """Forgets a cell that has left memory."""
        if cell.watched_at is not None:
            if cells := self._cells.get(cell.watched_at):
                cells.discard(cell)
            cell.watched_at = None

    def close(self) -> None:
        """Passivates no more cells."""
        if self._task is not None:
            self._task.cancel()

    def _move(self, cell: Cell, tick: int) -> None:
        self.forget(cell)
        cell.watched_at = tick
        cells = self._cells.get(tick)
        if cells is None:
            cells = self._cells[tick] = set()
            heappush(self._ticks, tick)
        cells.add(cell)
        if self._task is None:
            self._start()
        elif self._sleeps_until is not None and tick < self._sleeps_until:
            self._task.cancel()
            self._start()

    def _start(self) -> None:
        self._sleeps_until = None
        self._task = asyncio.create_task(
            self._run(), name=f"passivate {self._name}", context=Context()
        )

    async def _run(self) -> None:
        while self._ticks:
            tick = self._ticks[0]
            delay_s = tick * TICK_S - self._now()
            if delay_s > 0:
                self._sleeps_until = tick
                await self._clock.sleep(delay_s)
                self._sleeps_until = None
                continue
            heappop(self._ticks)
            await self._expire(self._cells.pop(tick), tick)
        self._task = None

    async def _expire(self, cells: set[Cell], tick: int) -> None:
        for number, cell in enumerate(cells, 1):
            if cell.watched_at == tick:
                cell.watched_at = None
                await self._passivate(cell)
            if number % CELLS_PER_YIELD == 0:
                await asyncio.sleep(0)

    async def _passivate(self, cell: Cell) -> None:
        if not cell.is_idle:
            return  # it is watched again once it is idle
        tick = ceil(cell.idle_at / TICK_S)
        if tick * TICK_S > self._now():
            self._move(cell, tick)
            return
        await self._passivating.acquire()
        task = None if cell.watched_at is not None else cell.passivate()
        if task is None:
            self._passivating.release()
        else:
            task.add_done_callback(lambda _: self._passivating.release())
