"""The streams that a server is serving, so that each can be ended with its reason."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import MeshError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from mesh.rpc.call import ServingCall


@dataclass(slots=True, eq=False)
class OpenStream:
    """One stream, and the task that serves it."""

    serving: ServingCall
    task: asyncio.Task[object]
    ended_by: MeshError | None = None  # the error that the peer receives

    def end(self, error: MeshError) -> None:
        """Ends the stream with ``error``, once."""
        if self.ended_by is None:
            self.ended_by = error
            self.task.cancel()


class OpenStreams:
    """The open streams of one server."""

    def __init__(self) -> None:
        self._open: set[OpenStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def hold(self, stream: OpenStream) -> Iterator[None]:
        """Keeps the stream among the open ones for the length of the block."""
        self._open.add(stream)
        try:
            yield
        finally:
            self._open.discard(stream)

    def review(self, judge: Callable[[ServingCall], None]) -> None:
        """Ends each stream that ``judge`` refuses, with the MeshError that it raises."""
        for stream in tuple(self._open):
            try:
                judge(stream.serving)
            except MeshError as error:
                stream.end(error)
