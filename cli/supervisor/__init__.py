"""The local supervisor: one process per service, restarted after a crash."""
