"""The local supervisor: one operating system process per service, kept alive until it is told."""
