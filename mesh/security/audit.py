"""The audit log: who was let through or refused, as lines of JSON that each seal the one before.

``hash`` is SHA-256 of the line without it, ``previous`` the hash of the line before: a line that is
changed, dropped or put between breaks the chain. A thread writes, and syncs each batch to the disk,
so a kill can lose the calls of the last moments (those still waiting for the thread), but never a
line that was followed by a newline; what it tore is cut off at the next start.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.errors import Reason, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

MAX_WAITING = 4096  # entries not yet on disk; beyond it calls are refused, never unrecorded
MAX_BATCH = 256
GATHER_DELAY_S = (
    0.01  # seconds that a batch waits for more: waking a thread and syncing cost as for one
)
MAX_LINE_BYTES = 1 << 16  # bytes
RETRY_INTERVAL_S = 1.0  # seconds, while the disk refuses
FIRST_PREVIOUS = "0" * 64  # previous of the first line

log = logging.getLogger(__name__)


class AuditError(ValueError):
    """The file is not an unbroken chain, or not ours to write; the text says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One judged call. Never what was said in it."""

    time: str  # RFC 3339, UTC
    trace_id: str
    caller: str  # SPIFFE ID; empty if none was proved
    method: str
    decision: str  # "allow" or "deny"
    rule: str  # why
    policy: str  # digest
    status: str  # "OK", "NOT_FOUND"


@dataclass(frozen=True, slots=True)
class AuditChain:
    """Where an unbroken chain ends."""

    lines: int = 0
    last: str = FIRST_PREVIOUS  # hash of the last line
    size: int = 0  # bytes up to the end of the last line


class AuditLog:
    """One file and its only writer; made by ``open_audit``."""

    def __init__(self, file: FileIO, chain: AuditChain) -> None:
        self._file = file
        self._chain = chain
        self._is_torn = False
        self._waiting: deque[AuditEntry] = deque()
        self._something = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_forever, name="audit")
        self._writer.start()

    def record(self, entry: AuditEntry) -> None:
        """Have it written soon. Unavailable if the disk lags far behind."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable(
                "the audit log cannot be written; retry later", reason=Reason.AUDIT_UNAVAILABLE
            )
        self._waiting.append(entry)
        if not self._something.is_set():
            self._something.set()

    def close(self) -> None:
        """Return once everything recorded is on disk, or the disk has refused it once more."""
        self._closing.set()
        self._something.set()
        self._writer.join()

    def _write_forever(self) -> None:
        while self._waiting or not self._closing.is_set():
            self._something.wait()
            self._closing.wait(GATHER_DELAY_S)
            self._something.clear()
            while self._waiting:
                count = min(len(self._waiting), MAX_BATCH)
                self._write([self._waiting.popleft() for _ in range(count)])

    def _write(self, batch: list[AuditEntry]) -> None:
        chain = self._chain
        text = b""
        for entry in batch:
            told = {name: getattr(entry, name) for name in AuditEntry.__slots__}
            line, last = seal({"sequence": chain.lines + 1, **told}, chain.last)
            text += line
            chain = AuditChain(chain.lines + 1, last, chain.size + len(line))
        while not self._on_disk(text):
            if self._closing.wait(RETRY_INTERVAL_S):
                log.critical("%d audit entries are lost: the disk refuses them", len(batch))
                return
        self._chain = chain

    def _on_disk(self, text: bytes) -> bool:
        try:
            if self._is_torn:
                self._file.truncate(self._chain.size)  # what the failed attempt may have left
            self._is_torn = True
            if os.pwrite(self._file.fileno(), text, self._chain.size) < len(text):
                raise OSError(errno.ENOSPC, "the disk took only a part of it")
            os.fsync(self._file.fileno())
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)
            return False
        self._is_torn = False
        return True


@contextmanager
def open_audit(path: Path) -> Iterator[AuditLog]:
    """Go on with the chain in ``path``, alone. AuditError if it is broken, or another's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(f"{path}: another process writes it") from None
        chain = _resume(path)
        if chain.size < path.stat().st_size:
            log.warning("%s: cut off a last line that a crash had torn", path)
            file.truncate(chain.size)
        audit = AuditLog(file, chain)
        try:
            yield audit
        finally:
            audit.close()


def verify(path: Path) -> AuditChain:
    """Follow the chain from its start; AuditError names the first line that breaks it.

    A last line without its newline is not part of the chain: it is being written, or was torn.
    """
    chain = AuditChain()
    with path.open("rb") as file:
        while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            sequence, last = _unseal(line, chain.last)
            if sequence != chain.lines + 1:
                raise AuditError(f"{path}: line {chain.lines + 1} breaks the chain")
            chain = AuditChain(sequence, last, chain.size + len(line))
        if len(line) == MAX_LINE_BYTES:
            raise AuditError(f"{path}: line {chain.lines + 1} is too long for an audit entry")
    return chain


def _resume(path: Path) -> AuditChain:
    """Where the chain ends, by its last line alone: a start may not take longer every day."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * MAX_LINE_BYTES))
        *lines, torn = file.read().split(b"\n")
    if not lines:
        return AuditChain()
    line = lines[-1] + b"\n"
    sequence, last = _unseal(line)
    if sequence == 0:
        raise AuditError(f"{path}: the last line is no audit entry; move the file away")
    return AuditChain(sequence, last, size - len(torn))


def _unseal(line: bytes, previous: str | None = None) -> tuple[int, str]:
    """Sequence and hash of a line, if it continues ``previous``, or whatever it names; 0 if not."""
    try:
        fields = json.loads(line)
        fields.pop("hash")
        sealed, digest = seal(fields, fields["previous"] if previous is None else previous)
        sequence = fields["sequence"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return 0, ""
    return (sequence, digest) if sealed == line and type(sequence) is int else (0, "")


def seal(fields: dict[str, object], previous: str) -> tuple[bytes, str]:
    """The line that continues the chain with these fields, and its hash."""
    fields = {**fields, "previous": previous}
    digest = hashlib.sha256(_text(fields)).hexdigest()
    return _text({**fields, "hash": digest}) + b"\n", digest


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _text(fields: dict[str, object]) -> bytes:
    """One spelling per content, so that a line cannot say the same in other words."""
    return _JSON.encode(fields).encode()
