"""A schedule: a workflow, its input, and the rules by which due times start runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.errors import InvalidArgument
from services.orchestrator.schedules.cron import Cron

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ID_CHARS = 40  # with a due time the id must fit a run id
MAX_INPUT_BYTES = 64 * 1024  # of JSON
MIN_INTERVAL_MS = 1_000
MAX_INTERVAL_MS = 366 * 24 * 3600 * 1000
MAX_CATCH_UP = 100  # due times
END_OF_TIME_MS = 7_258_118_400_000  # the year 2200
ON_TIME_MS = 10_000  # a due time that passed more recently is on time, whatever the policy

_ID = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_ID_CHARS - 1}}}")


class Overlap(StrEnum):
    """The policy for a due time while the last run has not ended: start no run, or another."""

    SKIP = "SKIP"
    ALLOW = "ALLOW"


class CatchUp(StrEnum):
    """The policy for due times that passed during an outage: which of them start a run."""

    NONE = "NONE"
    LATEST = "LATEST"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Interval:
    """A fixed interval between due times."""

    ms: int


Timing: TypeAlias = Interval | Cron


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The unchanging part of a schedule. Times are Unix milliseconds."""

    id: str
    workflow_id: str
    input: dict[str, Any]
    timing: Timing
    start_ms: int
    end_ms: int = END_OF_TIME_MS
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = MAX_CATCH_UP

    def next_due(self, after_ms: int) -> int | None:
        """Returns the first due time after ``after_ms``, or None if none is left."""
        match self.timing:
            case Interval(ms) if after_ms >= self.start_ms:
                due: int | None = self.start_ms + ((after_ms - self.start_ms) // ms + 1) * ms
            case Interval():
                due = self.start_ms
            case Cron() as cron:
                due = cron.next_due(max(after_ms, self.start_ms - 1))
        return due if due is not None and due <= self.end_ms else None

    def due_to_start(self, first_ms: int, now_ms: int) -> int | None:
        """Returns the oldest due time from ``first_ms`` to ``now_ms`` that starts a run, or None.

        A due time that passed more than ON_TIME_MS ago starts one if the catch-up policy says so.
        """
        on_time = next(self._between(max(first_ms, now_ms - ON_TIME_MS), now_ms), None)
        match self.catch_up:
            case CatchUp.NONE:
                return on_time
            case CatchUp.LATEST:
                missed = [] if on_time is not None else self._newest(first_ms, now_ms, 1)
            case CatchUp.ALL:
                missed = self._newest(first_ms, now_ms, self.catch_up_limit)
        return min([*missed, *([] if on_time is None else [on_time])], default=None)

    def _between(self, first_ms: int, last_ms: int) -> Iterator[int]:
        due = self.next_due(first_ms - 1)
        while due is not None and due <= last_ms:
            yield due
            due = self.next_due(due)

    def _newest(self, first_ms: int, now_ms: int, count: int) -> list[int]:
        """Returns the ``count`` newest due times from ``first_ms`` to ``now_ms``.

        It doubles the time that it looks back over: listing all due times would take too long after
        years with one in every second.
        """
        oldest = list(islice(self._between(first_ms, now_ms), count + 1))
        if len(oldest) <= count:
            return oldest
        back_ms = count * MIN_INTERVAL_MS
        while True:
            since_ms = max(first_ms, now_ms - back_ms)
            found = list(self._between(since_ms, now_ms))
            if len(found) >= count or since_ms == first_ms:
                return found[-count:]
            back_ms *= 2


def check(schedule: Schedule) -> None:
    """Raises InvalidArgument with the field that is out of bounds."""
    if not _ID.fullmatch(schedule.id):
        raise InvalidArgument(
            f"schedule_id must be 1 to {MAX_ID_CHARS} of a-z, 0-9 and _, beginning with a letter",
            field="schedule_id",
        )
    if len(json.dumps(schedule.input).encode()) > MAX_INPUT_BYTES:
        raise InvalidArgument(f"input must be at most {MAX_INPUT_BYTES} bytes", field="input")
    match schedule.timing:
        case Interval(ms) if not MIN_INTERVAL_MS <= ms <= MAX_INTERVAL_MS:
            raise InvalidArgument("interval must be from one second to 366 days", field="interval")
        case _:
            pass
    if not 0 < schedule.start_ms <= END_OF_TIME_MS:
        raise InvalidArgument("start_time must be between 1970 and 2200", field="start_time")
    if not schedule.start_ms <= schedule.end_ms <= END_OF_TIME_MS:
        raise InvalidArgument("end_time must be after start_time and before 2200", field="end_time")
    if not 1 <= schedule.catch_up_limit <= MAX_CATCH_UP:
        raise InvalidArgument(
            f"catch_up_limit must be from 1 to {MAX_CATCH_UP}", field="catch_up_limit"
        )


def run_id(schedule_id: str, due_ms: int) -> str:
    """Returns the run id of a due time, on every replica the same.

    For example ``"nightly-20260131T020000.000Z"``.
    """
    seconds, ms = divmod(due_ms, 1000)
    return f"{schedule_id}-{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{ms:03}Z"
