"""The life of a service process: settings, one ready line, signals, exit status."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeVar

from mesh.errors import MeshError
from mesh.observability import logs
from mesh.runtime import StartError
from mesh.security.trust import PolicyError
from mesh.settings import ConfigError, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

C = TypeVar("C")

EVENT_LOOP = "ANYA_EVENT_LOOP"
GC_THRESHOLD = 20_000  # allocations between two collections


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
    """Runs until SIGTERM or SIGINT, and returns the exit status. Prints the ready line to stdout.

    Status 2: the settings are invalid. Status 1: the process could not start for another reason.
    """
    logs.set_up(service)
    try:
        with asyncio.Runner(loop_factory=loop_factory(os.environ)) as runner:
            runner.run(_run(service, start(configure(os.environ))))
    except (ConfigError, PolicyError) as error:
        print(f"{service}: {error}", file=sys.stderr)
        return 2
    except (StartError, MeshError) as error:
        print(f"{service}: {error}", file=sys.stderr)
        return 1
    return 0


def loop_factory(environment: Mapping[str, str]) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns the constructor of the event loop: uvloop's if it is installed, or else asyncio's.

    ANYA_EVENT_LOOP forces one of the two. Raises ConfigError if it names another loop, or if it
    names uvloop and uvloop is not installed.
    """
    forced = Settings(environment).choice(EVENT_LOOP, "", ("asyncio", "uvloop"))
    if forced != "asyncio" and find_spec("uvloop"):
        from uvloop import new_event_loop

        return new_event_loop
    if forced == "uvloop":
        raise ConfigError(
            f"{EVENT_LOOP} is 'uvloop', which is not installed: install the extra 'fast', "
            "or unset the variable for asyncio"
        )
    return asyncio.new_event_loop


async def _run(service: str, service_context: AbstractAsyncContextManager[RunningService]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_once() -> None:
        stop.set()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)  # a second signal ends the process at once

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop_once)
    async with AsyncExitStack() as stack:
        try:
            running = await stack.enter_async_context(service_context)
        except OSError as error:
            raise StartError(_describe(error)) from error
        ready = {
            "service": service,
            "port": running.port,
            "health_port": running.health_port,
            "event_loop": type(loop).__module__.partition(".")[0],
        }
        tune_gc()
        print(json.dumps({"ready": ready}), flush=True)
        await stop.wait()


def tune_gc() -> None:
    """Excludes the objects made at start from garbage collection, and collects less often.

    Calls leave hardly any reference cycles behind, so reference counting frees nearly all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def _describe(error: OSError) -> str:
    """Returns the file and the reason in words, without the number of the error."""
    cause = error.strerror or str(error)
    return f"{error.filename} cannot be used: {cause}" if error.filename else cause
