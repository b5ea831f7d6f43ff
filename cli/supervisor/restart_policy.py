"""The restart delay after a crash, and the limit of restarts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLimits:
    """The crashes that are tolerated within a window, and the delays before each restart."""

    # A service that is killed again and again as soon as it is up does not end the mesh:
    # what cannot live at all crashes faster than that.
    max_crashes: int = 30  # the next one within the window is the last
    window_s: float = 120.0
    first_delay_s: float = 0.1  # doubles with each crash in the window
    max_delay_s: float = 2.0


class RestartPolicy:
    """The recent crashes of one process."""

    def __init__(self, clock: Clock, limits: RestartLimits) -> None:
        self._clock = clock
        self._limits = limits
        self._crashes: deque[float] = deque(maxlen=limits.max_crashes + 1)

    def crashed(self) -> float | None:
        """Records a crash; returns seconds to wait before the next start, or None to give up."""
        now = self._clock.monotonic()
        self._crashes.append(now)
        recent = sum(now - crash <= self._limits.window_s for crash in self._crashes)
        if recent > self._limits.max_crashes:
            return None
        delay: float = self._limits.first_delay_s * 2 ** (recent - 1)
        return min(delay, self._limits.max_delay_s)
