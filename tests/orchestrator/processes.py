"""Orchestrators in their own processes, for tests that kill and stop them."""

from __future__ import annotations

import json
import os
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from contextlib import asynccontextmanager
from shutil import copyfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from mesh.testing import Authority


def environment_of(authority: Authority, home: Path, peers: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of an orchestrator: a home, a certificate and peers."""
    identity = authority.issue_service("orchestrator")
    pki = home / "pki"
    pki.mkdir(parents=True)
    copyfile(identity.ca, pki / "ca.pem")
    copyfile(identity.certificate, pki / "orchestrator.pem")
    copyfile(identity.key, pki / "orchestrator.key")
    return {
        "PATH": os.environ["PATH"],
        "ANYA_HOME": str(home),
        "ANYA_PEERS": ",".join(f"{name}={address}" for name, address in peers.items()),
    }


@asynccontextmanager
async def process(environment: Mapping[str, str]) -> AsyncIterator[tuple[Process, int]]:
    """Starts an orchestrator; yields its process and port, and stops it at the end."""
    module = (
        "tests.orchestrator.skewed_clock_server"
        if "ANYA_TEST_SKEW" in environment
        else "services.orchestrator"
    )
    command = (sys.executable, "-m", module)
    child = await create_subprocess_exec(*command, env=environment, stdout=PIPE)
    try:
        assert child.stdout
        line = await child.stdout.readline()
        yield child, json.loads(line)["ready"]["port"]
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()
