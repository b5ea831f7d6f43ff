"""Failpoints: each acts once, for its key, and on regtest only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mesh import failpoint
from mesh.failpoint import FailpointError
from mesh.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoint.arm("", network="regtest")


def test_failpoint_with_a_key_acts_for_that_key_only() -> None:
    failpoint.arm("engine.step_done/run-1/pay=error", network="regtest")

    failpoint.reach("engine.step_done", "run-2/pay")
    failpoint.reach("engine.begin", "run-1/pay")
    with pytest.raises(FailpointError, match="run-1/pay"):
        failpoint.reach("engine.step_done", "run-1/pay")


def test_failpoint_without_a_key_acts_for_any_key() -> None:
    failpoint.arm("engine.step_done=error", network="regtest")

    with pytest.raises(FailpointError):
        failpoint.reach("engine.step_done", "run-2/pay")


def test_failpoint_acts_once() -> None:
    failpoint.arm("a=error,b=error", network="regtest")

    with pytest.raises(FailpointError):
        failpoint.reach("a")
    failpoint.reach("a")

    with pytest.raises(FailpointError):
        failpoint.reach("b")


def test_kill_ends_the_process_at_the_failpoint() -> None:
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


def test_stop_halts_the_process_until_sigcont() -> None:
    program = """
from mesh import failpoint
failpoint.arm("here=stop", network="regtest")
failpoint.reach("here")
print("after", flush=True)
"""

    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=10)

    assert os.WSTOPSIG(status) == signal.SIGSTOP
    assert output == b"after\n"


@pytest.mark.parametrize("network", ["main", "signet", "testnet4"])
def test_failpoints_cannot_be_armed_off_regtest(network: str) -> None:
    with pytest.raises(ConfigError, match="regtest only"):
        failpoint.arm("here=kill", network=network)

    failpoint.reach("here")


@pytest.mark.parametrize("text", ["here", "here=", "=kill", "here=explode", "a=kill,b"])
def test_malformed_list_arms_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match="ANYA_FAILPOINTS"):
        failpoint.arm(text, network="regtest")
