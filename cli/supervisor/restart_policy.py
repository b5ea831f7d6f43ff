"""The restart delay after a crash, and the limit of restarts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    # A service that is killed again and again as soon as it is up does not end the mesh:
    # what cannot live at all crashes faster than that.
    max_crashes: int = 30  # the next one within the window is the last
    within: float = 120.0  # seconds
    first_wait: float = 0.1  # seconds; doubles with each crash in the window
    longest_wait: float = 2.0


class RestartPolicy:
    """The recent crashes of one process."""

    def __init__(self, clock: Clock, patience: Patience) -> None:
        self._clock = clock
        self._patience = patience
        self._crashes: deque[float] = deque(maxlen=patience.max_crashes + 1)

    def crashed(self) -> float | None:
        """Records a crash; returns seconds to wait before the next start, or None to give up."""
        now = self._clock.monotonic()
        self._crashes.append(now)
        recent = sum(now - crash <= self._patience.within for crash in self._crashes)
        if recent > self._patience.max_crashes:
            return None
        wait: float = self._patience.first_wait * 2 ** (recent - 1)
        return min(wait, self._patience.longest_wait)
