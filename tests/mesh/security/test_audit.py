"""The audit log: an unbroken chain after restarts and kills, and errors that name a broken line."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mesh.security.audit import AuditError, open_audit, verify
from mesh.testing import eventually
from tests.mesh.security.audit_entry import ENTRY

if TYPE_CHECKING:
    from pathlib import Path


WRITER = """
import sys, pathlib
from mesh.security.audit import AuditEntry, open_audit
from tests.mesh.security.audit_entry import ENTRY
with open_audit(pathlib.Path(sys.argv[1])) as audit:
    while True:
        audit.record(ENTRY)
        print(flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "bitcoin.jsonl"


def write(path: Path, entries: int) -> None:
    with open_audit(path) as audit:
        for _ in range(entries):
            audit.record(ENTRY)


def test_entries_are_on_disk_when_the_log_is_closed(path: Path) -> None:
    write(path, 1000)

    assert verify(path).lines == 1000


def test_restart_continues_the_chain(path: Path) -> None:
    write(path, 3)
    write(path, 2)

    assert verify(path).lines == 5


def test_file_is_readable_by_its_owner_only(path: Path) -> None:
    write(path, 1)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b'"decision":"allow"', b'"decision":"deny"', id="changed"),
        pytest.param(b'"decision":"allow"', b'"decision":"x","decision":"allow"', id="doubled"),
        pytest.param(b'"decision":"allow"', b'"decision": "allow"', id="other encoding"),
        pytest.param(b'"sequence":2', b'"sequence":3', id="renumbered"),
        pytest.param(b"{", b"[", id="no object"),
        pytest.param(b"{", b'{"\xff":1,', id="no text"),
    ],
)
def test_altered_line_is_named(path: Path, old: bytes, new: bytes) -> None:
    write(path, 3)
    first, second, third = path.read_bytes().splitlines(keepends=True)

    path.write_bytes(first + second.replace(old, new, 1) + third)

    with pytest.raises(AuditError, match="line 2"):
        verify(path)


@pytest.mark.parametrize(
    ("order", "line"),
    [
        pytest.param((0, 2), 2, id="dropped"),
        pytest.param((1, 2), 1, id="dropped at the start"),
        pytest.param((0, 2, 1), 2, id="swapped"),
        pytest.param((0, 1, 1, 2), 3, id="repeated"),
    ],
)
def test_lines_out_of_order_are_named(path: Path, order: tuple[int, ...], line: int) -> None:
    write(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)

    path.write_bytes(b"".join(lines[index] for index in order))

    with pytest.raises(AuditError, match=f"line {line}"):
        verify(path)


def test_incomplete_last_line_is_cut_off_and_the_chain_continues(path: Path) -> None:
    write(path, 2)
    with path.open("ab") as file:
        file.write(b'{"caller":"spi')

    assert verify(path).lines == 2
    write(path, 1)

    assert verify(path).lines == 3


def _ends_in_a_line(path: Path, minimum: int) -> bool:
    written = path.read_bytes()
    return len(written) > minimum and written.endswith(b"\n")


async def test_partly_written_line_is_written_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, 1)
    size = verify(path).size
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    with open_audit(path) as audit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, usual[1]))
        try:
            audit.record(ENTRY)
            await eventually(lambda: "cannot be written" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        await eventually(lambda: _ends_in_a_line(path, size + 10))

    assert verify(path).lines == 2


def test_file_that_is_no_audit_log_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("hello\n")

    with pytest.raises(AuditError, match="move the file away"):
        write(path, 1)


def test_second_writer_is_refused(path: Path) -> None:
    with open_audit(path), pytest.raises(AuditError, match="another process"):
        write(path, 1)


def test_chain_continues_after_a_kill(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        for _ in range(2000):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.read()

    before = verify(path).lines if path.exists() else 0
    write(path, 1)

    assert verify(path).lines == before + 1
