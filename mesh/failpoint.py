"""Failpoints: named places where a test may break a process that runs on regtest.

``ANYA_FAILPOINTS="NAME[/KEY]=ACTION,..."``: when code reaches NAME (with that KEY, or any if none
is given) the process does ACTION, once: ``kill`` dies as by SIGKILL, ``stop`` stands still until it
gets SIGCONT, ``error`` raises.
"""

from __future__ import annotations

import os
import signal

from mesh.config import ConfigError

ACTIONS = ("kill", "stop", "error")

_armed: dict[str, str] = {}  # "NAME" or "NAME/KEY" -> action


class FailpointError(Exception):
    """Raised where a failpoint says ``error``; foreseen by nobody, as a defect would be."""


def arm(text: str, *, network: str) -> None:
    """Arm what ``text`` lists and nothing else; ConfigError off regtest or if it says nonsense."""
    if text and network != "regtest":
        raise ConfigError(f"ANYA_FAILPOINTS is for regtest only, not for {network}; unset it")
    armed: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        point, _, action = entry.rpartition("=")
        if not point or action not in ACTIONS:
            raise ConfigError(
                f"ANYA_FAILPOINTS: {entry!r} must be NAME[/KEY]={' or '.join(ACTIONS)}"
            )
        armed[point] = action
    _armed.clear()
    _armed.update(armed)


def is_armed() -> bool:
    """Is there any point in reaching one?"""
    return bool(_armed)


def reach(name: str, key: str = "") -> None:
    """Do here what is armed for this point, if anything."""
    if not _armed:
        return
    for point in (f"{name}/{key}", name):
        action = _armed.pop(point, None)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "error":
            raise FailpointError(point)
