"""The audit log: allowed and refused calls, as lines of JSON that form a hash chain.

``hash`` is the SHA-256 of the line without it, ``previous`` the hash of the line before. So a
changed, removed or inserted line breaks the chain. A thread writes, and syncs each batch to the
disk. A kill can lose the last calls, those that still wait for the thread, but no line that ends in
a newline; the next start cuts off an incomplete line.
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

MAX_WAITING = 4096  # entries not yet on disk; beyond it calls are refused
MAX_BATCH = 256
GATHER_DELAY_S = 0.01  # a batch waits for more entries, which share one sync
MAX_LINE_BYTES = 1 << 16
RETRY_INTERVAL_S = 1.0  # while the disk refuses writes
FIRST_PREVIOUS = "0" * 64  # ``previous`` of the first line

log = logging.getLogger(__name__)


class AuditError(ValueError):
    """The file is not an unbroken chain, or is in use; the text names the place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One decision about a call, without any of its contents."""

    time: str  # RFC 3339, UTC
    trace_id: str
    caller: str  # SPIFFE ID; empty if not authenticated
    method: str
    decision: str  # "allow" or "deny"
    rule: str  # the grant, or the reason of the refusal
    policy: str  # digest
    status: str  # "OK", "NOT_FOUND"


@dataclass(frozen=True, slots=True)
class AuditChain:
    """The end of an unbroken chain."""

    lines: int = 0
    last: str = FIRST_PREVIOUS  # hash of the last line
    size: int = 0  # bytes up to the end of the last line


class AuditLog:
    """One file and its only writer; made by ``open_audit``."""

    def __init__(self, file: FileIO, chain: AuditChain) -> None:
        self._file = file
        self._chain = chain
        self._is_incomplete = False
        self._waiting: deque[AuditEntry] = deque()
        self._wakeup = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_forever, name="audit")
        self._writer.start()

    def record(self, entry: AuditEntry) -> None:
        """Queues an entry. Raises Unavailable if MAX_WAITING entries are not yet on disk."""
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable(
                "the audit log cannot be written; retry later", reason=Reason.AUDIT_UNAVAILABLE
            )
        self._waiting.append(entry)
        if not self._wakeup.is_set():
            self._wakeup.set()

    def close(self) -> None:
        """Waits until all entries are on disk, or the disk has refused them once more."""
        self._closing.set()
        self._wakeup.set()
        self._writer.join()

    def _write_forever(self) -> None:
        while self._waiting or not self._closing.is_set():
            self._wakeup.wait()
            self._closing.wait(GATHER_DELAY_S)
            self._wakeup.clear()
            while self._waiting:
                count = min(len(self._waiting), MAX_BATCH)
                self._write([self._waiting.popleft() for _ in range(count)])

    def _write(self, batch: list[AuditEntry]) -> None:
        chain = self._chain
        text = b""
        for entry in batch:
            fields = {name: getattr(entry, name) for name in AuditEntry.__slots__}
            line, last = seal({"sequence": chain.lines + 1, **fields}, chain.last)
            text += line
            chain = AuditChain(chain.lines + 1, last, chain.size + len(line))
        while not self._on_disk(text):
            if self._closing.wait(RETRY_INTERVAL_S):
                log.critical("%d audit entries are lost: the disk refuses them", len(batch))
                return
        self._chain = chain

    def _on_disk(self, text: bytes) -> bool:
        try:
            if self._is_incomplete:
                self._file.truncate(self._chain.size)  # removes the rest of a failed attempt
            self._is_incomplete = True
            if os.pwrite(self._file.fileno(), text, self._chain.size) < len(text):
                raise OSError(errno.ENOSPC, "the disk took only a part of the batch")
            os.fsync(self._file.fileno())
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)
            return False
        self._is_incomplete = False
        return True


@contextmanager
def open_audit(path: Path) -> Iterator[AuditLog]:
    """Continues the chain in ``path``. Raises AuditError if it is broken or in use."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(f"{path}: another process writes it; stop that process") from None
        chain = _resume(path)
        if chain.size < path.stat().st_size:
            log.warning("%s: cut off an incomplete last line", path)
            file.truncate(chain.size)
        audit = AuditLog(file, chain)
        try:
            yield audit
        finally:
            audit.close()


def verify(path: Path) -> AuditChain:
    """Checks the chain from its start. Raises AuditError with the first line that breaks it.

    A last line without a newline is not part of the chain: it is incomplete.
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
    """Returns the end of the chain by reading its last lines, so that the start stays fast."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * MAX_LINE_BYTES))
        *lines, incomplete = file.read().split(b"\n")
    if not lines:
        return AuditChain()
    line = lines[-1] + b"\n"
    sequence, last = _unseal(line)
    if sequence == 0:
        raise AuditError(f"{path}: the last line is no audit entry; move the file away")
    return AuditChain(sequence, last, size - len(incomplete))


def _unseal(line: bytes, previous: str | None = None) -> tuple[int, str]:
    """Returns sequence and hash of a line; 0 if it is invalid or does not follow ``previous``."""
    try:
        fields = json.loads(line)
        fields.pop("hash")
        sealed, digest = seal(fields, fields["previous"] if previous is None else previous)
        sequence = fields["sequence"]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return 0, ""
    return (sequence, digest) if sealed == line and type(sequence) is int else (0, "")


def seal(fields: dict[str, object], previous: str) -> tuple[bytes, str]:
    """Returns the line that continues the chain with these fields, and its hash."""
    fields = {**fields, "previous": previous}
    digest = hashlib.sha256(_text(fields)).hexdigest()
    return _text({**fields, "hash": digest}) + b"\n", digest


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _text(fields: dict[str, object]) -> bytes:
    """Encodes fields in one canonical form, so that equal contents give equal lines."""
    return _JSON.encode(fields).encode()
