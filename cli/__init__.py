"""The `anya` command: a client of the public API like any other, and the local supervisor."""
