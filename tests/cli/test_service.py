"""One supervised service: real processes that crash, hang or refuse to start."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.errors import CommandError
from cli.supervisor.process import Command
from cli.supervisor.restart_policy import RestartLimits, RestartPolicy
from cli.supervisor.service import Crash, Service
from mesh.clock import ManualClock
from mesh.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READY = """print('{"ready": {"service": "clock", "port": 1, "health_port": 2}}', flush=True)"""
SERVE = f"""
import os, signal
{READY}
print("failpoints", os.environ.get("ANYA_FAILPOINTS"), flush=True)
signal.pause()
"""
CRASH = f"""
import os
{READY}
os.kill(os.getpid(), 9)
"""
HANG = "import signal; signal.pause()"

SUPERVISOR = """
import asyncio, os, pathlib, sys
from cli.supervisor.process import Command, Process

async def main():
    log = pathlib.Path(sys.argv[1])
    command = Command(arguments=("-c", sys.argv[2]), environment=dict(os.environ), log=log)
    print((await Process.start(command)).pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""

STRICT = RestartLimits(max_crashes=2, first_delay_s=0.01)


def command(folder: Path, program: str) -> Command:
    return Command(
        arguments=("-c", program), environment=dict(os.environ), log=folder / "service.log"
    )


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """Runs the service, from ready until stopped."""
    life = asyncio.create_task(service.run())
    await service.until_ready()
    yield service
    await service.stop()
    await life


@pytest.fixture
def crashes() -> list[Crash]:
    return []


@pytest.fixture
def service(tmp_path: Path, crashes: list[Crash]) -> Service:
    return Service("clock", command(tmp_path, SERVE), report=crashes.append)


def pid(service: Service) -> int:
    return int(service.status()["pid"] or 0)


def is_alive(process: int) -> bool:
    """Returns whether the process runs; a zombie has ended and waits for its parent to reap it."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_ready_service_has_a_process(service: Service) -> None:
    async with running(service):
        assert service.status()["state"] == "ready"
        assert is_alive(pid(service))


async def test_stopped_service_has_no_process(service: Service, crashes: list[Crash]) -> None:
    async with running(service):
        process = pid(service)

    assert not is_alive(process)
    assert crashes == []


async def test_killed_process_is_replaced(service: Service, crashes: list[Crash]) -> None:
    async with running(service):
        first = pid(service)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: pid(service) not in (0, first))

        assert service.restarts == 1
        assert crashes == [Crash("clock", "was killed by SIGKILL")]


async def test_requested_restart_is_no_crash(service: Service, crashes: list[Crash]) -> None:
    async with running(service):
        first = pid(service)
        await service.restart()

        assert pid(service) != first
        assert service.restarts == 0
        assert crashes == []


async def test_failpoints_apply_to_one_process_only(service: Service, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    async with running(service):
        await service.restart(failpoints="here=kill")
        await eventually(lambda: log.read_text().endswith("failpoints here=kill\n"))
        armed = pid(service)
        os.kill(armed, signal.SIGKILL)
        await eventually(lambda: pid(service) not in (0, armed))
        await eventually(lambda: log.read_text().endswith("failpoints None\n"))

        assert service.restarts == 1


async def test_service_that_crashes_too_often_is_given_up(
    tmp_path: Path, crashes: list[Crash]
) -> None:
    service = Service("clock", command(tmp_path, CRASH), report=crashes.append, limits=STRICT)

    with pytest.raises(CommandError, match="clock crashed too often") as failure:
        await service.run()

    assert failure.value.reason == "SERVICE_DOWN"
    assert len(crashes) == STRICT.max_crashes + 1


async def test_service_that_does_not_start_reports_the_cause(tmp_path: Path) -> None:
    refuses = command(tmp_path, "import sys; sys.exit('ANYA_LISTEN must be host:port')")
    service = Service("clock", refuses, report=print)

    with pytest.raises(CommandError, match="ANYA_LISTEN must be host:port") as failure:
        await service.run()

    assert str(tmp_path / "service.log") in failure.value.remedy


async def test_service_can_be_stopped_while_it_starts(tmp_path: Path) -> None:
    service = Service("clock", command(tmp_path, HANG), report=print)
    life = asyncio.create_task(service.run())
    await eventually(lambda: (tmp_path / "service.log").exists())

    await service.stop()
    life.cancel()

    with pytest.raises(asyncio.CancelledError):
        await life


async def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    supervisor = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SUPERVISOR, str(tmp_path / "service.log"), SERVE),
        stdout=asyncio.subprocess.PIPE,
    )

    output, _ = await supervisor.communicate()

    assert supervisor.returncode == -signal.SIGKILL
    await eventually(lambda: not is_alive(int(output)))


def test_waits_double_up_to_the_limit_of_crashes() -> None:
    limits = RestartLimits(max_crashes=4, window_s=60, first_delay_s=0.1, max_delay_s=0.3)
    policy = RestartPolicy(ManualClock(), limits)

    waits = [policy.crashed() for _ in range(5)]

    assert waits == [0.1, 0.2, 0.3, 0.3, None]


def test_kills_as_fast_as_a_service_starts_are_tolerated() -> None:
    clock = ManualClock()
    policy = RestartPolicy(clock, RestartLimits())

    for _ in range(100):
        wait = policy.crashed()
        assert wait is not None
        clock.advance(wait + 2.5)  # a start on a slow machine


def test_old_crashes_do_not_count() -> None:
    clock = ManualClock()
    policy = RestartPolicy(clock, RestartLimits(max_crashes=1, window_s=60, first_delay_s=0.1))
    policy.crashed()

    clock.advance(61)

    assert policy.crashed() == 0.1
