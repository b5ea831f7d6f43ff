"""Actors: each owns the state of one run in memory."""
