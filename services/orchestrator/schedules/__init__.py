"""Schedules: when a run is due, and which of several due times one is started for."""
