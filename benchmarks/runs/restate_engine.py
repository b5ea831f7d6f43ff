"""Restate's server with its service in a process of its own; this process is the client."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.runs import burst
from benchmarks.runs.http_client import HttpClient, HttpError

INPUT = {"txid": bytes(range(32)).hex()}
READY_TIMEOUT_S = 60.0
RETRY_DELAY_S = 0.2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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
        processes = [
            _start(stack, [*hypercorn, "--bind", f"127.0.0.1:{service}", "restate_service:app"]),
            _start(stack, [server], environment),
        ]
        await _register(f"http://127.0.0.1:{admin}/deployments", f"http://127.0.0.1:{service}")
        url = f"http://127.0.0.1:{ingress}/four_steps/run"
        async with HttpClient(url, json.dumps(INPUT).encode()) as client:
            await _once_ready(client)
            await burst.serve(client.post, engine_cpu_s=lambda: sum(map(_cpu_s, processes)))


async def _register(admin: str, service: str) -> None:
    async with HttpClient(admin, json.dumps({"uri": service}).encode()) as client:
        await _once_ready(client)


async def _once_ready(client: HttpClient) -> None:
    """Posts once the server accepts it. Raises the last error if it never does."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            await client.post()
            return
        except (HttpError, OSError, EOFError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(RETRY_DELAY_S)


def _start(
    stack: ExitStack, command: list[str], environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603  (the peer's)
        command, cwd=Path(__file__).parent, env=environment, stdout=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Returns the CPU seconds that a process has taken in all its threads (proc(5), stat)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
