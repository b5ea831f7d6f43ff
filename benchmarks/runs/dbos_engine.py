"""DBOS: the same four steps, which do nothing, interpreted from their definition."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
from dbos import DBOS

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.runs import burst

POOL_SIZE = 64  # connections, as many as concurrent runs: 17 % faster at 64 than the default
STEPS = ("verify", "assess", "pay", "record")
INPUT = {"txid": bytes(range(32)).hex()}


async def step(name: str, seen: dict[str, Any]) -> dict[str, Any]:
    return {"txid": seen["input"]["txid"], "confirmations": 1}


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def four_steps(value: dict[str, Any]) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for name in STEPS:
        seen = {"input": value, "steps": steps}
        steps[name] = await DBOS.run_step_async({"name": name}, step, name, seen)
    return steps


async def main(arguments: argparse.Namespace) -> None:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": arguments.store,
            "sys_db_pool_size": POOL_SIZE,
            "log_level": "ERROR",
            "application_version": "1",
            "executor_id": "one",
        }
    )
    DBOS.launch()
    try:
        if arguments.door == "direct":
            await burst.serve(lambda: four_steps(INPUT))
        else:
            await _over_grpc()
    finally:
        DBOS.destroy()


async def _over_grpc() -> None:
    async def start(request: bytes, context: Any) -> bytes:
        running = await DBOS.start_workflow_async(four_steps, INPUT)
        return str(await running.get_result()).encode()

    server = grpc.aio.server()
    methods: dict[str, Any] = {"Run": grpc.unary_unary_rpc_method_handler(start)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = str(Path(__file__).with_name("dbos_client.py"))
    await burst.relay(sys.executable, client, f"127.0.0.1:{port}")
    await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--door", choices=["direct", "grpc"], default="direct")
    asyncio.run(main(parser.parse_args()))
