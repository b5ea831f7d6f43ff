"""The local mesh's collector of spans in a process of its own, as a supervisor runs it."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

from cli.spans.receiver import receiving

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def running() -> Iterator[str]:
    """Its URL, for the block."""
    command = [sys.executable, "-m", "benchmarks.runs.collector"]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:  # noqa: S603  (ours)
        assert process.stdin is not None  # noqa: S101  (both are pipes)
        assert process.stdout is not None  # noqa: S101
        yield process.stdout.readline().strip()
        process.stdin.close()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with receiving(Path(folder, "traces.db")) as url:
            print(url, flush=True)
            await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
