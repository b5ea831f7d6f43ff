"""Calls through every interceptor; client and server share this process and its event loop."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from benchmarks.mesh import REQUEST, open_mesh
from benchmarks.runs import burst
from mesh.process import loop_factory
from mesh.testing import Authority

CALL_TIMEOUT_S = 5.0


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(Path(folder))
        async with open_mesh(authority, Path(folder, "mesh")) as stub:

            async def call() -> None:
                await stub.ReadOutbox(REQUEST, timeout=CALL_TIMEOUT_S)

            await burst.serve(call)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(os.environ)) as runner:
        runner.run(main())
