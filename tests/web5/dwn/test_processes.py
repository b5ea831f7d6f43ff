"""Two processes on one database: the second attempt returns the record of the first."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.data.database import open_database
from tests.web5.dwn.record_process import PAYMENTS, SCHEMA

if TYPE_CHECKING:
    from mesh.data.database import Transaction

ROOT = Path(__file__).parents[3]
RECORD_PROCESS = [sys.executable, "-m", "tests.web5.dwn.record_process"]


async def run(location: str, secret: str) -> tuple[int | None, bytes]:
    """Returns the exit code of a separate process, and the record ids of its payments."""
    child = await asyncio.create_subprocess_exec(
        *RECORD_PROCESS, location, secret, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    return child.returncode, output


async def test_two_processes_store_each_record_once(location: str) -> None:
    secret = secrets.token_hex(32)

    one, other = await asyncio.gather(run(location, secret), run(location, secret))

    code, output = one
    assert code == 0

    async def kept(tx: Transaction) -> tuple[list[int], set[str]]:
        sequences = await tx.fetch("SELECT sequence FROM dwn_event ORDER BY sequence")
        records = await tx.fetch("SELECT record_id FROM dwn_message WHERE method = 'Write'")
        return [number for (number,) in sequences], {identity for (identity,) in records}

    async with open_database(location, schema=SCHEMA) as database:
        sequences, records = await database.read(kept)
    assert one == other
    assert records == set(json.loads(output))
    assert len(records) == PAYMENTS
    assert sequences == list(range(1, PAYMENTS + 2))  # the protocol is the first event
