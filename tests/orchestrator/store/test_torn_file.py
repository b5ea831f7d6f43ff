"""A SQLite file copied during writes, as a crash of the host leaves it."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from mesh.testing import eventually
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.store.open import open_store
from tests.orchestrator.store.run_stores import begin, fails

if TYPE_CHECKING:
    from pathlib import Path

COPIES = 8
RUNS_AT_ONCE = 16


async def test_copy_holds_every_acknowledged_commit_and_every_run_folds(
    tmp_path: Path,
) -> None:
    original = tmp_path / "store.db"
    acknowledged: dict[str, int] = {}  # run id -> sequence that is durable
    stopping = asyncio.Event()

    async with open_store(str(original)) as store:
        registry = WorkflowRegistry(store.definitions)
        await registry.register_built_in()

        async def write(name: str) -> None:
            number = 0
            while not stopping.is_set():
                number += 1
                started = await begin(store.runs, registry, f"{name}-{number}")
                acknowledged[f"{name}-{number}"] = started.state.sequence
                ended = fails(started)
                await store.runs.append(ended.state, 0, ended.records)
                acknowledged[f"{name}-{number}"] = ended.state.sequence

        async def grow() -> None:
            known = len(acknowledged)
            await eventually(lambda: len(acknowledged) >= known + RUNS_AT_ONCE, within=20)

        writers = [asyncio.create_task(write(f"w{number}")) for number in range(RUNS_AT_ONCE)]
        promises: list[dict[str, int]] = []
        for number in range(COPIES):
            await grow()
            promises.append(dict(acknowledged))
            await asyncio.to_thread(copy, original, tmp_path / f"copy-{number}", number)
        stopping.set()
        await asyncio.gather(*writers)

    for number, promised in enumerate(promises):
        async with open_store(str(tmp_path / f"copy-{number}" / "store.db")) as store:
            for run_id, sequence in promised.items():
                stored = await store.runs.load(run_id)  # its records are whole, and fold
                assert stored.state.sequence >= sequence, run_id
            again = await begin(store.runs, WorkflowRegistry(store.definitions), "afterwards")
            assert again.state.sequence


def copy(store: Path, folder: Path, seed: int) -> None:
    """Copies the file, then its log with a torn end, as a crash during the last write leaves it.

    An open read transaction keeps the log from being restarted between the two copies.
    """
    folder.mkdir()
    with closing(sqlite3.connect(store, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM run").fetchone()
        shutil.copyfile(store, folder / store.name)
        log = store.with_name(store.name + "-wal").read_bytes()
    torn = log + random.Random(seed).randbytes(1 + seed * 999)  # noqa: S311
    (folder / f"{store.name}-wal").write_bytes(torn)
