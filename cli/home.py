"""The folder that holds everything of one local mesh: certificates, data, logs, traces."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = ("bitcoin", "web5", "ml", "orchestrator")
DEFAULT = ".anya"
PRIVATE = 0o700
DRAIN_TIMEOUT_S = 15.0  # that services may take to end after their supervisor


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under the home. Only ``make``, ``lock`` and ``stage`` touch the disk."""

    path: Path

    @classmethod
    def of(cls, option: Path | None) -> Home:
        """Returns the home that ``--home`` or ANYA_HOME names, else .anya in the current folder."""
        chosen = option or Path(os.environ.get("ANYA_HOME") or DEFAULT)
        return cls(chosen.expanduser().absolute())

    @property
    def endpoints(self) -> Path:
        return self.path / "endpoints.json"

    @property
    def pki(self) -> Path:
        return self.path / "pki"

    @property
    def client(self) -> Path:
        """The folder of the operator's certificate, DID keys and the demo's truth."""
        return self.path / "client"

    @property
    def audit(self) -> Path:
        return self.path / "audit"

    @property
    def traces(self) -> Path:
        return self.path / "traces.db"

    @property
    def lock_file(self) -> Path:
        return self.path / "up.lock"

    def service(self, name: str) -> Path:
        return self.path / name

    def log(self, name: str) -> Path:
        return self.service(name) / "service.log"

    def make(self) -> None:
        """Makes the folders, for their owner only.

        Raises CommandError (HOME_UNUSABLE) if the folder holds anything else, so that a wrong path
        never changes the rights of foreign files.
        """
        if self._holds_something_else():
            raise CommandError(
                f"{self.path} holds files that are not a mesh's",
                reason="HOME_UNUSABLE",
                remedy="choose an empty or a new folder with --home",
            )
        for folder in (self.path, self.pki, self.client, self.audit, *map(self.service, SERVICES)):
            try:
                folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
                folder.chmod(PRIVATE)
            except OSError as error:
                raise _unusable(folder, error) from None

    def _holds_something_else(self) -> bool:
        try:
            names = {entry.name for entry in self.path.iterdir()}
        except OSError:
            return False  # absent, or what follows will say why it cannot be used
        ours = (self.pki, self.client, self.audit, self.traces, self.lock_file, self.endpoints)
        return bool(names) and names.isdisjoint(path.name for path in ours)

    @contextmanager
    def lock(self) -> Iterator[int]:
        """Locks the home for one supervisor; yields the descriptor that its processes inherit.

        The home stays locked until the last of these processes has ended, also if the supervisor
        was killed. Waits for such processes; raises CommandError at once if a supervisor lives.
        """
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.lock_file, error) from None
        try:
            deadline = time.monotonic() + DRAIN_TIMEOUT_S
            while not _try_lock(descriptor):
                holder = os.pread(descriptor, 32, 0).decode()
                if _is_alive(holder) or time.monotonic() > deadline:
                    raise self._taken(holder)
                time.sleep(0.05)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def stage(self) -> Iterator[None]:
        """Locks the home for one demo: two would mine into each other's economy."""
        descriptor = os.open(self._stage_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(descriptor):
                raise CommandError(
                    f"a demo plays on {self.path} already",
                    code="ALREADY_EXISTS",
                    reason="DEMO_RUNNING",
                    remedy="wait for its end, or choose another folder with --home",
                )
            yield
        finally:
            os.close(descriptor)

    @property
    def _stage_file(self) -> Path:
        return self.client / "demo.lock"

    def _taken(self, holder: str) -> CommandError:
        return CommandError(
            f"a mesh runs on {self.path} already (process {holder or 'unknown'})",
            code="ALREADY_EXISTS",
            reason="HOME_IN_USE",
            remedy="use it, stop it with Ctrl-C or SIGTERM, or choose another folder with --home",
        )


def _unusable(path: Path, error: OSError) -> CommandError:
    return CommandError(
        f"{path} cannot be the mesh's: {error.strerror}",
        reason="HOME_UNUSABLE",
        remedy="choose another folder with --home",
    )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(process: str) -> bool:
    """Returns True if the text is the id of a living process; False also for any other text."""
    if not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)  # asks, sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file atomically, readable by its owner only."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
