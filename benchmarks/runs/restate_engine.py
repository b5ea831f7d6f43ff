"""Restate's server with its service in a process of its own, and a client that asks for runs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.runs import burst

INPUT = {"txid": bytes(range(32)).hex()}
READY_TIMEOUT_S = 60.0


async def main(server: str) -> None:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        node, admin, ingress, service = _free_ports(4)
        environment = {
            **os.environ,
            "RESTATE_BASE_DIR": folder,
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_DEFAULT_NUM_PARTITIONS": "4",
            "RESTATE_LOG_FILTER": "error",
        }
        hypercorn = [sys.executable, "-m", "hypercorn", "--workers", "0"]
        _start(stack, [*hypercorn, "--bind", f"127.0.0.1:{service}", "restate_service:app"])
        _start(stack, [server], environment)
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            where = {"uri": f"http://127.0.0.1:{service}"}
            await _post(client, f"http://127.0.0.1:{admin}/deployments", where)
            url = f"http://127.0.0.1:{ingress}/four_steps/run"
            await _post(client, url, INPUT)

            async def run() -> None:
                (await client.post(url, json=INPUT)).raise_for_status()

            await burst.serve(run)


async def _post(client: httpx.AsyncClient, url: str, value: dict[str, str]) -> None:
    """Posts ``value`` once the server accepts connections. Raises HTTPError if it never does."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            (await client.post(url, json=value)).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


def _start(stack: ExitStack, command: list[str], environment: dict[str, str] | None = None) -> None:
    process = subprocess.Popen(  # noqa: S603  (the peer's)
        command, cwd=Path(__file__).parent, env=environment, stdout=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.kill)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
