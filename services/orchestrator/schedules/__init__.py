"""Schedules start runs by the clock: at intervals, or by cron in a time zone."""
