"""Our engine as it ships: fence, idempotency keys, outbox and tracing on, spans to a collector.

Its four steps call ``get_transaction``. With ``--steps none`` that call returns at once inside the
engine, as the no-op steps of the peers do; with ``--steps grpc`` it goes over mTLS to a service
that answers at once. ``--door direct`` starts runs in this process; with ``--door grpc`` a client
in a process of its own does. Several replicas are as apart as processes, but for the one that they
live in.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceServicer, add_ChainServiceServicer_to_server
from anya.orchestrator.v1.workflow_pb2_grpc import add_WorkflowServiceServicer_to_server
from benchmarks.runs import burst
from benchmarks.runs.definitions import DEFINITIONS, FOUR_STEPS, TXID
from cli.payment_client import new_id
from mesh.config import MeshConfig
from mesh.data.database import request
from mesh.data.idempotency import IdempotencyKey
from mesh.observability.config import TraceConfig, collector_config
from mesh.process import loop_factory, tune_gc
from mesh.runtime import open_runtime
from mesh.testing import Authority
from services.orchestrator.config import PEERS, OrchestratorConfig
from services.orchestrator.engine.model import RunStatus
from services.orchestrator.engine.start import StartRun
from services.orchestrator.notifications import RunNotifier
from services.orchestrator.peers import open_peers
from services.orchestrator.peers.approvals import Approvals
from services.orchestrator.registry import WorkflowRegistry
from services.orchestrator.servicers.workflow import WorkflowServicer
from services.orchestrator.store import group_commit
from services.orchestrator.store.erasure import Erasure
from services.orchestrator.store.open import open_store
from services.orchestrator.store.run_store import StartResult
from services.orchestrator.worker.run_spans import parent_of_run
from services.orchestrator.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from mesh.runtime import Runtime
    from services.orchestrator.store.open import OrchestratorStore

OPERATOR = "spiffe://anya.internal/client/operator"
CALL_TIMEOUT_S = 30.0
REPLY = chain_pb2.GetTransactionResponse(txid=TXID, confirmations=1)


class Instant:
    """In place of the other services: every call returns at once."""

    async def call(self, service: str, method: str, request: bytes, **_: Any) -> bytes:
        return REPLY.SerializeToString()


class InstantChain(ChainServiceServicer):
    """Answers at once: what is left to measure is the engine, and the way there and back."""

    async def GetTransaction(  # noqa: N802
        self, request: chain_pb2.GetTransactionRequest, context: Any
    ) -> chain_pb2.GetTransactionResponse:
        return REPLY


class AwaitableRuns:
    """A run store that resolves a future when a run of this process ends."""

    def __init__(self, store: OrchestratorStore) -> None:
        self._store = store
        self.ended: dict[str, asyncio.Future[str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store.runs, name)

    async def append(self, state: Any, *arguments: Any) -> None:
        await self._store.runs.append(state, *arguments)
        self._resolve(state)

    def _resolve(self, state: Any) -> None:
        if state.finished and (waiting := self.ended.pop(state.run_id, None)):
            waiting.set_result(state.status)


@dataclass(frozen=True, slots=True)
class Replica:
    worker: Worker
    runs: AwaitableRuns
    runtime: Runtime
    port: int


class UnstoredRuns(AwaitableRuns):
    """Keeps only definitions: runs and their records are never stored."""

    async def start(self, key: Any, workflow_id: str, prepare: Any, reply: Any) -> StartResult:
        stored = await self._store.definitions.find(workflow_id)
        return StartResult(reply(prepare(stored)), True)

    async def append(self, state: Any, *arguments: Any) -> None:
        self._resolve(state)


async def main(arguments: argparse.Namespace) -> None:
    group_commit.MAX_BATCH = request.MAX_BATCH = arguments.batch
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = Authority(folder)
        replicas = [
            await stack.enter_async_context(_replica(authority, folder / str(number), arguments))
            for number in range(arguments.replicas)
        ]
        tune_gc()
        if arguments.door == "direct":
            await burst.serve(_direct(replicas[0]))
        else:
            identity = authority.issue(OPERATOR)
            client = [sys.executable, "-m", "benchmarks.runs.client", "--ask", arguments.ask]
            client += ["--collector", arguments.collector, "--identity"]
            client += map(str, (identity.certificate, identity.key, identity.ca))
            await burst.relay(*client, "--", *(f"127.0.0.1:{one.port}" for one in replicas))


@asynccontextmanager
async def _replica(
    authority: Authority, folder: Path, arguments: argparse.Namespace
) -> AsyncIterator[Replica]:
    config = OrchestratorConfig(
        mesh=_mesh("orchestrator", authority, folder, arguments.collector),
        database=arguments.store or str(folder / "runs.db"),
    )
    async with AsyncExitStack() as stack:
        mesh = config.mesh
        if arguments.steps == "grpc":
            chain = await stack.enter_async_context(_chain(authority, folder, arguments.collector))
            mesh = replace(mesh, peers=dict.fromkeys(PEERS, chain))
        runtime = await stack.enter_async_context(open_runtime(mesh))
        peers: Any = Instant()
        if arguments.steps == "grpc":
            peers = await stack.enter_async_context(open_peers(runtime, timeout=CALL_TIMEOUT_S))
        store = await stack.enter_async_context(open_store(config.location))
        runs: Any = (UnstoredRuns if arguments.journal == "none" else AwaitableRuns)(store)
        definitions, notifier = store.definitions, RunNotifier()
        registry = WorkflowRegistry(definitions)
        for definition in DEFINITIONS:
            await registry.register(definition)
        worker = Worker(runs, store.database, registry, peers, notifier, runtime.span_sink, config)
        await stack.enter_async_context(store.own(worker, notifier))
        await stack.enter_async_context(worker.running())
        erasure = Erasure(store.database)
        approvals = Approvals(runs, worker, peers)
        servicer = WorkflowServicer(
            definitions, registry, runs, worker, notifier, erasure, approvals
        )
        add = partial(add_WorkflowServiceServicer_to_server, servicer)
        ports = await stack.enter_async_context(runtime.serve(add))
        yield Replica(worker, runs, runtime, ports.port)


def _direct(replica: Replica) -> Callable[[], Awaitable[None]]:
    worker, runs, runtime = replica.worker, replica.runs, replica.runtime
    value = {"txid": TXID[::-1].hex()}

    async def run() -> None:
        run_id = new_id()
        key = IdempotencyKey(OPERATOR, "StartRun", run_id, bytes(32))
        runs.ended[run_id] = ended = asyncio.get_running_loop().create_future()
        span = runtime.tracer.start_span("bench")  # as of the server of a call
        parent = parent_of_run(run_id, None, span.get_span_context())
        span.end()
        request = StartRun(run_id, value, None, "", OPERATOR)
        await worker.start(key, FOUR_STEPS, request, parent, lambda new: new.state.run_id.encode())
        if (status := await ended) != RunStatus.SUCCEEDED:
            raise AssertionError(f"run {run_id} ended otherwise: {status}")

    return run


def _mesh(service: str, authority: Authority, folder: Path, collector: str) -> MeshConfig:
    folder.mkdir(exist_ok=True)
    identity = authority.issue_service(service)
    traces = collector_config(collector) if collector else TraceConfig()
    return MeshConfig(service=service, identity=identity, home=folder, traces=traces)


@asynccontextmanager
async def _chain(authority: Authority, folder: Path, collector: str) -> AsyncIterator[str]:
    chain = InstantChain()  # type: ignore[abstract]
    add = partial(add_ChainServiceServicer_to_server, chain)
    mesh = _mesh("bitcoin", authority, folder, collector)
    async with open_runtime(mesh) as runtime, runtime.serve(add) as ports:
        yield f"127.0.0.1:{ports.port}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="", help="a file or a postgresql:// URL")
    parser.add_argument("--door", choices=["direct", "grpc"], default="direct")
    parser.add_argument("--ask", choices=["run", "signal"], default="run", help="on the wire")
    parser.add_argument("--replicas", type=int, default=1, help="that share the store")
    parser.add_argument("--steps", choices=["none", "grpc"], default="none")
    parser.add_argument("--journal", choices=["store", "none"], default="store")
    parser.add_argument("--batch", type=int, default=64, help="transitions in a commit")
    parser.add_argument("--collector", default="", help="where spans go")
    return parser


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(os.environ)) as runner:
        runner.run(main(_parser().parse_args()))
