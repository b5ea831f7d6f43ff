"""The home and the environment of one service that a test starts without the rest of the mesh."""

from __future__ import annotations

import os
from shutil import copyfile
from typing import TYPE_CHECKING

from cli.home import SERVICES

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority

UNUSED = "127.0.0.1:9"


def create_home(service: str, authority: Authority, folder: Path) -> Path:
    """Creates in ``folder`` what the service needs to start, and returns the folder."""
    identity = authority.issue_service(service)
    (folder / "pki").mkdir()
    copyfile(identity.ca, folder / "pki/ca.pem")
    copyfile(identity.certificate, folder / f"pki/{service}.pem")
    copyfile(identity.key, folder / f"pki/{service}.key")
    (folder / service).mkdir()
    return folder


def environment_of(home: Path) -> dict[str, str]:
    """Returns the environment of a service whose peers are unavailable."""
    peers = ",".join(f"{name}={UNUSED}" for name in SERVICES)
    return {"PATH": os.environ["PATH"], "ANYA_HOME": str(home), "ANYA_PEERS": peers}
