"""A client of our engine: starts runs over mTLS, through every interceptor, and awaits their end.

``run`` asks for a run and its end in one call. ``signal`` starts a run that waits for a signal,
sends it, and measures from there until a watch shows the next step; with two targets the
run is started at the first, and the signal sent to the second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceStub
from benchmarks.runs import burst
from benchmarks.runs.definitions import FOUR_STEPS, TXID, WAITING
from cli.payment_client import new_id
from mesh.breaker import Breakers
from mesh.clock import SystemClock
from mesh.config import Identity
from mesh.observability.config import TraceConfig, collector_config
from mesh.observability.telemetry import open_traces
from mesh.process import loop_factory
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CALL_TIMEOUT_S = 30.0
WAIT = Duration(seconds=20)
INPUT = Struct()
INPUT.update({"txid": TXID[::-1].hex()})


async def main(arguments: argparse.Namespace) -> None:
    identity = Identity(*map(Path, arguments.identity))
    config = collector_config(arguments.collector) if arguments.collector else TraceConfig()
    traces = open_traces("client", config)
    rules = ClientRules(
        target="orchestrator",
        tracer=traces.tracer,
        breakers=Breakers(SystemClock()),
        timeout=CALL_TIMEOUT_S,
    )
    try:
        async with AsyncExitStack() as stack:
            stubs = []
            for target in arguments.targets:
                channel = await stack.enter_async_context(open_channel(target, rules, identity))
                stubs.append(WorkflowServiceStub(channel))
            await burst.serve(ASKS[arguments.ask](stubs))
    finally:
        await asyncio.to_thread(traces.close)


def _run(stubs: Sequence[Any]) -> Callable[[], Awaitable[None]]:
    stub = stubs[0]

    async def run() -> None:
        request = _request(FOUR_STEPS)
        request.wait.CopyFrom(WAIT)
        request.view = pb.RUN_VIEW_BASIC
        reply = await stub.StartRun(request)
        if reply.status != pb.RUN_STATUS_SUCCEEDED:
            raise AssertionError(f"run {reply.run_id} ended otherwise: {reply.run}")

    return run


def _signal(stubs: Sequence[Any]) -> Callable[[], Awaitable[float]]:
    first, last = stubs[0], stubs[-1]

    async def signal() -> float:
        request = _request(WAITING)
        run_id = request.request_id
        await first.StartRun(request)
        sent = began = resumed = None
        watch = pb.WatchRunRequest(run_id=run_id, view=pb.RUN_VIEW_CHANGES)
        async for reply in first.WatchRun(watch):
            if sent is None and reply.run.status == pb.RUN_STATUS_WAITING:
                began = time.perf_counter()
                asked = pb.SignalRunRequest(request_id=run_id, run_id=run_id, signal="approved")
                sent = asyncio.ensure_future(last.SignalRun(asked))
            if resumed is None and any(step.path == "record" for step in reply.run.steps):
                resumed = time.perf_counter()
        if sent is None or began is None or resumed is None:
            raise AssertionError(f"run {run_id} did not wait: {reply.run}")
        await sent
        return resumed - began

    return signal


def _request(workflow_id: str) -> pb.StartRunRequest:
    run_id = new_id()
    return pb.StartRunRequest(request_id=run_id, workflow_id=workflow_id, input=INPUT)


ASKS = {"run": _run, "signal": _signal}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ask", choices=ASKS, default="run")
    parser.add_argument("--identity", nargs=3, help="files: certificate, key, authority")
    parser.add_argument("--collector", default="", help="where spans go")
    parser.add_argument("targets", nargs="+")
    return parser


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(os.environ)) as runner:
        runner.run(main(_parser().parse_args()))
