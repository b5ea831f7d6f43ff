"""A client of the DBOS engine behind gRPC, which is answered with the end of a run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.runs import burst


async def main(target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        run: Any = channel.unary_unary("/bench/Run")
        await burst.serve(lambda: run(b"{}"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
