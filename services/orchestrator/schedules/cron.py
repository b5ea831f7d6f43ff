"""Cron by the clocks of a time zone: nothing is due twice when they go back, or lost when forward.

cronsim reads the expression and matches it against what clocks show; which moments that is, where a
zone changes its offset, is decided here:

* An expression that names every hour is due at each such minute that passes, in both of two hours
  that show the same time.
* Any other is due once for what it names. A time shown twice counts the first time; a time that is
  skipped is due at the moment of the change. Several that are skipped together are due there once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from mesh.errors import InvalidArgument

MAX_EXPRESSION = 100  # characters
FIELDS = 5
HOURS = 24
NO_PLACES = {"Factory", "localtime"}  # what they stand for differs between machines
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
SOME_TIME = datetime(2000, 1, 1)  # as a clock shows it


@dataclass(frozen=True, slots=True)
class Cron:
    expression: str
    zone: str

    def following(self, after_ms: int) -> int | None:
        """The next due time, Unix milliseconds; None if there is none within 50 years.

        InvalidArgument if this machine does not know the zone.
        """
        after = datetime.fromtimestamp(after_ms // 1000, UTC)
        zone = _zone(self.zone)
        try:
            if _names_every_hour(self.expression):
                found = self._in_every_hour(after, zone)
            else:
                found = self._at_named_times(after, zone)
        except (StopIteration, OverflowError):
            return None
        return int(found.timestamp()) * 1000

    def _in_every_hour(self, after: datetime, zone: ZoneInfo) -> datetime:
        """As long as the offset stays the same, so does the way from clocks to moments."""
        since, shown = after, _shown(after, zone)
        while True:
            found = since + (next(CronSim(self.expression, shown)) - _shown(since, zone))
            change = _change(zone, since, found)
            if change is None:
                return found
            since, shown = change, _shown(change, zone) - SECOND

    def _at_named_times(self, after: datetime, zone: ZoneInfo) -> datetime:
        times = CronSim(self.expression, _shown(after, zone))
        while (found := _first_moment(next(times), zone)) <= after:
            pass
        return found


def cron(expression: str, zone: str) -> Cron:
    """InvalidArgument for an expression or zone that nobody can read, or that names no day."""
    _zone(zone)
    if len(expression) > MAX_EXPRESSION or len(expression.split()) != FIELDS:
        raise _unreadable(
            f"must be minute, hour, day of month, month and day of week, at most {MAX_EXPRESSION}"
            " characters"
        )
    try:
        next(CronSim(expression, SOME_TIME))
    except CronSimError as error:
        raise _unreadable(f"cannot be read: {error}") from None
    except StopIteration:
        raise _unreadable("names a day that never comes") from None
    return Cron(" ".join(expression.split()), zone)


@lru_cache
def _names_every_hour(expression: str) -> bool:
    return len(CronSim(expression, SOME_TIME).hours) == HOURS


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise InvalidArgument(
            f"cron.zone {name[:100]!r} is not known here: it must be an IANA name such as"
            " Europe/Berlin",
            field="cron.zone",
        )
    return ZoneInfo(name)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones() - NO_PLACES)


def _shown(moment: datetime, zone: ZoneInfo) -> datetime:
    """What clocks show then."""
    return moment.astimezone(zone).replace(tzinfo=None)


def _first_moment(shown: datetime, zone: ZoneInfo) -> datetime:
    """When clocks show this first; if they skip it, when they do."""
    moment = shown.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if _shown(moment, zone) == shown:
        return moment
    return _change(zone, moment - DAY, moment) or moment


def _change(zone: ZoneInfo, since: datetime, until: datetime) -> datetime | None:
    """The first second behind ``since``, at most ``until``, that has another offset than it."""
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


def _unreadable(why: str) -> InvalidArgument:
    return InvalidArgument(f"cron.expression {why}", field="cron.expression")
