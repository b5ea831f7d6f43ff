"""Traces of the local mesh: received as OTLP, kept in SQLite, shown as a waterfall."""
