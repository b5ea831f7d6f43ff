"""The life of a service process: settings, one ready line, signals, exit status."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Protocol, TypeVar

from mesh.config import ConfigError
from mesh.errors import MeshError
from mesh.observability import logs
from mesh.runtime import StartError
from mesh.security.trust import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

C = TypeVar("C")

GC_THRESHOLD = 20_000  # objects made since the last look for garbage


class RunningService(Protocol):
    """A service that has started."""

    @property
    def port(self) -> int: ...

    @property
    def health_port(self) -> int: ...


def run(
    service: str,
    configure: Callable[[Mapping[str, str]], C],
    start: Callable[[C], AbstractAsyncContextManager[RunningService]],
) -> int:
    """Run until SIGTERM or SIGINT; the exit status. Stdout gets the ready line and nothing else.

    Status 2: the settings are wrong. Status 1: they are sound, but something is in the way.
    """
    logs.set_up(service)
    try:
        asyncio.run(_run(service, start(configure(os.environ))))
    except (ConfigError, PolicyError) as error:
        print(f"{service}: {error}", file=sys.stderr)
        return 2
    except (StartError, MeshError) as error:
        print(f"{service}: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(service: str, starting: AbstractAsyncContextManager[RunningService]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_once() -> None:
        stop.set()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)  # a second one ends us at once

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop_once)
    async with AsyncExitStack() as stack:
        try:
            running = await stack.enter_async_context(starting)
        except OSError as error:
            raise StartError(_name(error)) from error
        ready = {"service": service, "port": running.port, "health_port": running.health_port}
        tune_gc()
        print(json.dumps({"ready": ready}), flush=True)
        await stop.wait()


def tune_gc() -> None:
    """Leave what was made at start out of every look for garbage, and look less often.

    What a call leaves behind hardly ever refers to itself, and goes without being looked for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _name(error: OSError) -> str:
    """What the system refused, in words: nobody looks for a file by the number of an error."""
    why = error.strerror or str(error)
    return f"{error.filename} cannot be used: {why}" if error.filename else why
