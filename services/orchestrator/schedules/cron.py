"""Cron in a time zone. No time is due twice when clocks go back, and none is lost when forward.

cronsim parses the expression and matches it against local times. This module maps local times to
moments where a zone changes its offset:

* An expression that matches every hour is due at each matching minute, also in both of two hours
  that have the same local time.
* Any other expression is due once for each matching local time. A local time that occurs twice is
  due at its first occurrence. A local time that is skipped is due at the moment of the change;
  several that are skipped together are due there once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from mesh.errors import InvalidArgument

MAX_EXPRESSION_CHARS = 100
FIELDS = 5
HOURS = 24
EXCLUDED_ZONES = {"Factory", "localtime"}  # they mean different zones on different machines
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
ANY_TIME = datetime(2000, 1, 1)  # a local time


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression of five fields, and an IANA time zone."""

    expression: str
    zone: str

    def next_due(self, after_ms: int) -> int | None:
        """Returns the first due time after ``after_ms``, Unix milliseconds.

        Returns None if none follows within 50 years. Raises InvalidArgument if this machine does
        not know the zone.
        """
        after = datetime.fromtimestamp(after_ms // 1000, UTC)
        zone = _zone(self.zone)
        try:
            if _matches_every_hour(self.expression):
                found = self._in_every_hour(after, zone)
            else:
                found = self._at_named_times(after, zone)
        except (StopIteration, OverflowError):
            return None
        return int(found.timestamp()) * 1000

    def _in_every_hour(self, after: datetime, zone: ZoneInfo) -> datetime:
        """Returns the next match, found between two changes of the offset at a time."""
        since, local = after, _local(after, zone)
        while True:
            found = since + (next(CronSim(self.expression, local)) - _local(since, zone))
            change = _change(zone, since, found)
            if change is None:
                return found
            since, local = change, _local(change, zone) - SECOND

    def _at_named_times(self, after: datetime, zone: ZoneInfo) -> datetime:
        times = CronSim(self.expression, _local(after, zone))
        while (found := _first_moment(next(times), zone)) <= after:
            pass
        return found


def cron(expression: str, zone: str) -> Cron:
    """Returns the parsed expression.

    Raises InvalidArgument if the zone is unknown, the expression cannot be parsed, or no day
    matches it.
    """
    _zone(zone)
    if len(expression) > MAX_EXPRESSION_CHARS or len(expression.split()) != FIELDS:
        raise _invalid(
            "must be minute, hour, day of month, month and day of week, at most"
            f" {MAX_EXPRESSION_CHARS} characters"
        )
    try:
        next(CronSim(expression, ANY_TIME))
    except CronSimError as error:
        raise _invalid(f"cannot be parsed: {error}") from None
    except StopIteration:
        raise _invalid("matches no day") from None
    return Cron(" ".join(expression.split()), zone)


@lru_cache
def _matches_every_hour(expression: str) -> bool:
    return len(CronSim(expression, ANY_TIME).hours) == HOURS


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise InvalidArgument(
            f"cron.zone {name[:100]!r} is unknown on this machine: it must be an IANA name such as"
            " Europe/Berlin",
            field="cron.zone",
        )
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - EXCLUDED_ZONES)


def _local(moment: datetime, zone: ZoneInfo) -> datetime:
    """Returns the local time at a moment."""
    return moment.astimezone(zone).replace(tzinfo=None)


def _first_moment(local: datetime, zone: ZoneInfo) -> datetime:
    """Returns the first moment with this local time, or the change that skips it."""
    moment = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _local(moment, zone) == local:
        return moment
    return _change(zone, moment - DAY, moment) or moment


def _change(zone: ZoneInfo, since: datetime, until: datetime) -> datetime | None:
    """Returns the first second after ``since``, up to ``until``, with another offset."""
    offset = since.astimezone(zone).utcoffset()
    while since < until:
        day = min(since + DAY, until)
        if day.astimezone(zone).utcoffset() != offset:
            while day - since > SECOND:
                middle = since + (day - since) // (2 * SECOND) * SECOND
                if middle.astimezone(zone).utcoffset() == offset:
                    since = middle
                else:
                    day = middle
            return day
        since = day
    return None


def _invalid(problem: str) -> InvalidArgument:
    return InvalidArgument(f"cron.expression {problem}", field="cron.expression")
