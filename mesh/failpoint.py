"""Failpoints: named places in the code where a test may break a process that runs on regtest.

``ANYA_FAILPOINTS="NAME[/KEY]=ACTION,..."``: when code reaches NAME (with that KEY, or with any if
none is given) the process does ACTION, once: ``kill`` sends itself SIGKILL, ``stop`` sends itself
SIGSTOP and waits for SIGCONT, ``error`` raises FailpointError.
"""

from __future__ import annotations

import os
import signal

from mesh.settings import ConfigError

ACTIONS = ("kill", "stop", "error")

_armed: dict[str, str] = {}  # "NAME" or "NAME/KEY" -> action


class FailpointError(Exception):
    """Raised by the action ``error``; no code expects it, as with a defect."""


def arm(text: str, *, network: str) -> None:
    """Arms what ``text`` lists and nothing else. Raises ConfigError off regtest or if malformed."""
    if text and network != "regtest":
        raise ConfigError(f"ANYA_FAILPOINTS is for regtest only, not for {network}; unset it")
    armed: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        point, _, action = entry.rpartition("=")
        if not point or action not in ACTIONS:
            raise ConfigError(
                f"ANYA_FAILPOINTS has {entry!r}: write NAME[/KEY]={' or '.join(ACTIONS)}"
            )
        armed[point] = action
    _armed.clear()
    _armed.update(armed)


def is_armed() -> bool:
    """Tells if any failpoint is armed."""
    return bool(_armed)


def reach(name: str, key: str = "") -> None:
    """Does the action that is armed for this point, if any."""
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
