"""Failpoints: they break what they name, once, and only where no money is real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mesh import failpoint
from mesh.config import ConfigError
from mesh.failpoint import FailpointError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoint.arm("", network="regtest")


def test_a_point_breaks_for_its_key_only() -> None:
    failpoint.arm("engine.step_done/run-1/pay=error", network="regtest")

    failpoint.reach("engine.step_done", "run-2/pay")
    failpoint.reach("engine.begin", "run-1/pay")
    with pytest.raises(FailpointError, match="run-1/pay"):
        failpoint.reach("engine.step_done", "run-1/pay")


def test_a_point_without_a_key_breaks_for_any() -> None:
    failpoint.arm("engine.step_done=error", network="regtest")

    with pytest.raises(FailpointError):
        failpoint.reach("engine.step_done", "run-2/pay")


def test_it_breaks_once() -> None:
    failpoint.arm("a=error,b=error", network="regtest")

    with pytest.raises(FailpointError):
        failpoint.reach("a")
    failpoint.reach("a")

    with pytest.raises(FailpointError):
        failpoint.reach("b")


def test_kill_ends_the_process_where_it_stands() -> None:
    program = """
from mesh import failpoint
failpoint.arm("here=kill", network="regtest")
print("before", flush=True)
failpoint.reach("here")
print("after", flush=True)
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b"before\n"


def test_stop_has_the_process_stand_still_until_it_is_told_to_go_on() -> None:
    program = """
from mesh import failpoint
failpoint.arm("here=stop", network="regtest")
failpoint.reach("here")
print("after", flush=True)
"""

    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=10)

    assert os.WSTOPSIG(status) == signal.SIGSTOP
    assert said == b"after\n"


@pytest.mark.parametrize("network", ["main", "signet", "testnet4"])
def test_off_regtest_nothing_can_be_armed(network: str) -> None:
    with pytest.raises(ConfigError, match="regtest only"):
        failpoint.arm("here=kill", network=network)

    failpoint.reach("here")


@pytest.mark.parametrize("text", ["here", "here=", "=kill", "here=explode", "a=kill,b"])
def test_nonsense_is_refused_whole(text: str) -> None:
    with pytest.raises(ConfigError, match="ANYA_FAILPOINTS"):
        failpoint.arm(text, network="regtest")
