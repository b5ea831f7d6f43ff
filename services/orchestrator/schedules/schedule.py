"""A schedule: a workflow, its input, and which due times become runs."""

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

MAX_ID = 40  # characters: with a due time it must fit a run id
MAX_INPUT = 64 * 1024  # bytes of JSON
MIN_INTERVAL = 1_000  # ms
MAX_INTERVAL = 366 * 24 * 3600 * 1000
MAX_CATCH_UP = 100  # due times
END_OF_TIME = 7_258_118_400_000  # ms: the year 2200
ON_TIME = 10_000  # ms: less late than this is not late

_ID = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_ID - 1}}}")


class Overlap(StrEnum):
    SKIP = "SKIP"
    ALLOW = "ALLOW"


class CatchUp(StrEnum):
    NONE = "NONE"
    LATEST = "LATEST"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class Interval:
    ms: int


Timing: TypeAlias = Interval | Cron


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What somebody asked for. Times are Unix milliseconds."""

    id: str
    workflow_id: str
    input: dict[str, Any]
    timing: Timing
    start_ms: int
    end_ms: int = END_OF_TIME
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.LATEST
    catch_up_limit: int = MAX_CATCH_UP

    def following(self, after_ms: int) -> int | None:
        """The first due time after that; None if there is none any more."""
        match self.timing:
            case Interval(ms) if after_ms >= self.start_ms:
                due: int | None = self.start_ms + ((after_ms - self.start_ms) // ms + 1) * ms
            case Interval():
                due = self.start_ms
            case Cron() as cron:
                due = cron.following(max(after_ms, self.start_ms - 1))
        return due if due is not None and due <= self.end_ms else None

    def owed(self, first_ms: int, now_ms: int) -> int | None:
        """The oldest due time from ``first_ms`` on that wants a run at ``now_ms``, if any does.

        Those that passed longer than ON_TIME ago want one as far as the catch-up policy says.
        """
        on_time = next(self._between(max(first_ms, now_ms - ON_TIME), now_ms), None)
        match self.catch_up:
            case CatchUp.NONE:
                return on_time
            case CatchUp.LATEST:
                wanted = [] if on_time is not None else self._newest(first_ms, now_ms, 1)
            case CatchUp.ALL:
                wanted = self._newest(first_ms, now_ms, self.catch_up_limit)
        return min([*wanted, *([] if on_time is None else [on_time])], default=None)

    def _between(self, first_ms: int, last_ms: int) -> Iterator[int]:
        due = self.following(first_ms - 1)
        while due is not None and due <= last_ms:
            yield due
            due = self.following(due)

    def _newest(self, first_ms: int, now_ms: int, most: int) -> list[int]:
        """Looks back further and further: years may have passed, with a due time every second."""
        oldest = list(islice(self._between(first_ms, now_ms), most + 1))
        if len(oldest) <= most:
            return oldest
        back = most * MIN_INTERVAL
        while True:
            since = max(first_ms, now_ms - back)
            found = list(self._between(since, now_ms))
            if len(found) >= most or since == first_ms:
                return found[-most:]
            back *= 2


def check(schedule: Schedule) -> None:
    """InvalidArgument naming the field that is out of bounds."""
    if not _ID.fullmatch(schedule.id):
        raise InvalidArgument(
            f"schedule_id must be 1 to {MAX_ID} of a-z, 0-9 and _, beginning with a letter",
            field="schedule_id",
        )
    if len(json.dumps(schedule.input).encode()) > MAX_INPUT:
        raise InvalidArgument(f"input must be at most {MAX_INPUT} bytes", field="input")
    match schedule.timing:
        case Interval(ms) if not MIN_INTERVAL <= ms <= MAX_INTERVAL:
            raise InvalidArgument("interval must be from one second to 366 days", field="interval")
        case _:
            pass
    if not 0 < schedule.start_ms <= END_OF_TIME:
        raise InvalidArgument("start_time must be between 1970 and 2200", field="start_time")
    if not schedule.start_ms <= schedule.end_ms <= END_OF_TIME:
        raise InvalidArgument("end_time must be after start_time and before 2200", field="end_time")
    if not 1 <= schedule.catch_up_limit <= MAX_CATCH_UP:
        raise InvalidArgument(
            f"catch_up_limit must be from 1 to {MAX_CATCH_UP}", field="catch_up_limit"
        )


def run_id(schedule_id: str, due_ms: int) -> str:
    """``"nightly-20260131T020000.000Z"``: the same for everybody who starts it."""
    seconds, ms = divmod(due_ms, 1000)
    return f"{schedule_id}-{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{ms:03}Z"
