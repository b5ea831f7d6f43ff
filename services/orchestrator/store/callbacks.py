"""The calls that a store makes to the worker that executes its runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.orchestrator.store.messages import Message
    from services.orchestrator.store.stored_run import StoredRun


class WorkerCallbacks(Protocol):
    """The worker of this process, as its store sees it."""

    def notify_claimable(self) -> None:
        """Announces that runs may wait for a claim."""
        ...

    def notify_events(self) -> None:
        """Announces that another process may have committed events."""
        ...

    def notify_message(self, run_id: str, message: Message | None = None) -> None:
        """Announces that another process stored a message to the run; None: the store has it."""
        ...

    def drop_all_runs(self) -> None:
        """Stops all runs of this process at once: its lease is lost."""
        ...

    def re_export_spans(self, ended: Sequence[StoredRun]) -> None:
        """Exports the spans of runs whose process may have died before it exported them."""
        ...


class AttachedWorker:
    """The worker that owns runs of a store at present. Without one, calls have no effect."""

    def __init__(self) -> None:
        self._worker: WorkerCallbacks | None = None

    @contextmanager
    def attach(self, worker: WorkerCallbacks) -> Iterator[None]:
        """Passes calls on to ``worker`` for the duration of the block."""
        self._worker = worker
        try:
            yield
        finally:
            self._worker = None

    def notify_claimable(self) -> None:
        """Announces that runs may wait for a claim."""
        if self._worker is not None:
            self._worker.notify_claimable()

    def drop_all_runs(self) -> None:
        """Stops all runs of this process at once: its lease is lost."""
        if self._worker is not None:
            self._worker.drop_all_runs()
