"""The service of outbox_service.py in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping

    from mesh.testing import Authority

CHILD = (sys.executable, str(Path(__file__).with_name("outbox_service.py")))


def environment_of(authority: Authority, home: Path) -> dict[str, str]:
    """Returns the environment of the service, whose certificates it puts into its home."""
    identity = authority.issue_service("bitcoin")
    pki = home / "pki"
    pki.mkdir()
    copyfile(identity.ca, pki / "ca.pem")
    copyfile(identity.certificate, pki / "bitcoin.pem")
    copyfile(identity.key, pki / "bitcoin.key")
    return {"PATH": os.environ["PATH"], "ANYA_HOME": str(home)}


@asynccontextmanager
async def child(environment: Mapping[str, str]) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *CHILD, env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ready(process: Process) -> dict[str, Any]:
    """Waits for the ready line, and returns what it says."""
    assert process.stdout
    line = json.loads(await process.stdout.readline())
    found: dict[str, Any] = line["ready"]
    return found


def credentials(authority: Authority) -> grpc.ChannelCredentials:
    """Returns the credentials of a caller that the service's policy admits."""
    caller = authority.issue_service("orchestrator")
    return grpc.ssl_channel_credentials(
        caller.ca.read_bytes(), caller.key.read_bytes(), caller.certificate.read_bytes()
    )
