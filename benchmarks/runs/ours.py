"""Our engine as it ships: fence, inbox, outbox and tracing on, spans sent to a collector.

Its four steps call ``get_transaction``. With ``--steps none`` that call returns at once inside the
engine, as the no-op steps of the peers do; with ``--steps grpc`` it goes over mTLS to a service
that answers at once. ``--door direct`` starts runs in this process, ``--door grpc`` on the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import Struct

from anya.bitcoin.v1 import chain_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceServicer, add_ChainServiceServicer_to_server
from anya.orchestrator.v1 import workflow_pb2
from anya.orchestrator.v1.workflow_pb2_grpc import (
    WorkflowServiceStub,
    add_WorkflowServiceServicer_to_server,
)
from benchmarks.runs import burst
from mesh.breaker import Breakers
from mesh.client import open_channel
from mesh.clock import SystemClock
from mesh.config import MeshConfig
from mesh.database import sqlite
from mesh.inbox import RequestKey
from mesh.interceptors import ClientRules
from mesh.runtime import open_runtime
from mesh.testing import Authority
from services.orchestrator.catalogue import Catalogue
from services.orchestrator.changes import Changes
from services.orchestrator.config import PEERS, OrchestratorConfig
from services.orchestrator.engine.starting import StartRun
from services.orchestrator.engine.state import RunStatus
from services.orchestrator.journal.erasure import Erasure
from services.orchestrator.journal.opening import open_journal
from services.orchestrator.journal.runs import Started
from services.orchestrator.peers import open_peers
from services.orchestrator.run_trace import parent_of_run
from services.orchestrator.runner import Runner
from services.orchestrator.servicers.workflow import WorkflowServicer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import grpc

    from mesh.runtime import Runtime
from services.orchestrator.journal.opening import Journal

WORKFLOW = "four_steps"
TXID = bytes(range(32))
OPERATOR = "spiffe://anya.internal/client/operator"
TIMEOUT = 30.0
STEPS = [
    {
        "id": name,
        "protocol": "bitcoin",
        "operation": "get_transaction",
        "input_mapping": {"txid": "{{input.txid}}"},
        "output_mapping": {"confirmations": "{{output.confirmations}}"},
    }
    for name in ("verify", "assess", "pay", "record")
]
DEFINITION = json.dumps({"id": WORKFLOW, "name": "Four steps", "steps": STEPS})
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


class Awaited:
    """The journal, whichever it is; who started a run in this process hears of its end."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.ended: dict[str, asyncio.Future[str]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal.runs, name)

    async def append(self, state: Any, *arguments: Any) -> None:
        await self._journal.runs.append(state, *arguments)
        self._hear(state)

    def _hear(self, state: Any) -> None:
        if state.finished and (waiting := self.ended.pop(state.run_id, None)):
            waiting.set_result(state.status)


class Forgetful(Awaited):
    """No journal: whatever is stored is forgotten at once."""

    async def start(self, key: Any, workflow_id: str, prepare: Any, reply: Any) -> Started:
        stored = await self._journal.definitions.find(workflow_id)
        return Started(reply(prepare(stored)), True)

    async def append(self, state: Any, *arguments: Any) -> None:
        self._hear(state)


async def main(arguments: argparse.Namespace) -> None:
    sqlite.MAX_BATCH = arguments.batch
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority = Authority(folder)
        config = OrchestratorConfig(
            mesh=_mesh("orchestrator", authority, folder, arguments.collector),
            database=arguments.store or str(folder / "runs.db"),
        )
        mesh = config.mesh
        if arguments.steps == "grpc":
            chain = await stack.enter_async_context(_chain(authority, folder, arguments.collector))
            mesh = replace(mesh, peers=dict.fromkeys(PEERS, chain))
        runtime = await stack.enter_async_context(open_runtime(mesh))
        peers: Any = Instant()
        if arguments.steps == "grpc":
            peers = await stack.enter_async_context(open_peers(runtime, timeout=TIMEOUT))
        journal = await stack.enter_async_context(open_journal(config.location))
        runs: Any = (Forgetful if arguments.journal == "none" else Awaited)(journal)
        definitions, changes = journal.definitions, Changes()
        catalogue = Catalogue(definitions)
        await catalogue.register(DEFINITION)
        runner = Runner(runs, catalogue, peers, changes, runtime.draw, config)
        await stack.enter_async_context(journal.own(runner, changes))
        await stack.enter_async_context(runner.running())
        if arguments.door == "direct":
            await burst.serve(_direct(runner, runs, runtime))
            return
        erasure = Erasure(journal.database)
        servicer = WorkflowServicer(definitions, catalogue, runs, runner, changes, erasure)
        add = partial(add_WorkflowServiceServicer_to_server, servicer)
        ports = await stack.enter_async_context(runtime.serve(add))
        channel = await stack.enter_async_context(_client(authority, ports.port, runtime))
        await burst.serve(_over_grpc(WorkflowServiceStub(channel)))


def _direct(runner: Runner, runs: Awaited, runtime: Runtime) -> Callable[[], Awaitable[None]]:
    value = {"txid": TXID[::-1].hex()}

    async def run() -> None:
        run_id = str(uuid.uuid4())
        key = RequestKey(OPERATOR, "StartRun", run_id, bytes(32))
        runs.ended[run_id] = ended = asyncio.get_running_loop().create_future()
        with runtime.tracer.start_as_current_span("bench") as span:
            parent = parent_of_run(run_id, None, span.get_span_context())
        request = StartRun(run_id, value, None, "", OPERATOR)
        await runner.start(key, WORKFLOW, request, parent, lambda new: new.state.run_id.encode())
        if (status := await ended) != RunStatus.SUCCEEDED:
            raise AssertionError(f"run {run_id} ended otherwise: {status}")

    return run


def _over_grpc(stub: Any) -> Callable[[], Awaitable[None]]:
    """As a client does: start it, and watch it to its end."""
    value = Struct()
    value.update({"txid": TXID[::-1].hex()})

    async def run() -> None:
        run_id = str(uuid.uuid4())
        await stub.StartRun(
            workflow_pb2.StartRunRequest(request_id=run_id, workflow_id=WORKFLOW, input=value)
        )
        async for reply in stub.WatchRun(workflow_pb2.WatchRunRequest(run_id=run_id)):
            status = reply.run.status
        if status != workflow_pb2.RUN_STATUS_SUCCEEDED:
            raise AssertionError(f"run {run_id} ended otherwise: {status}")

    return run


def _mesh(service: str, authority: Authority, folder: Path, collector: str) -> MeshConfig:
    identity = authority.issue_service(service)
    return MeshConfig(
        service=service, identity=identity, home=folder, otlp_endpoint=collector or None
    )


@asynccontextmanager
async def _chain(authority: Authority, folder: Path, collector: str) -> AsyncIterator[str]:
    chain = InstantChain()  # type: ignore[abstract]
    add = partial(add_ChainServiceServicer_to_server, chain)
    mesh = _mesh("bitcoin", authority, folder, collector)
    async with open_runtime(mesh) as runtime, runtime.serve(add) as ports:
        yield f"127.0.0.1:{ports.port}"


def _client(authority: Authority, port: int, runtime: Runtime) -> grpc.aio.Channel:
    rules = ClientRules(
        target="orchestrator",
        tracer=runtime.tracer,
        breakers=Breakers(SystemClock()),
        timeout=TIMEOUT,
    )
    return open_channel(f"127.0.0.1:{port}", rules, authority.issue(OPERATOR))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="", help="a file or a postgresql:// URL")
    parser.add_argument("--door", choices=["direct", "grpc"], default="direct")
    parser.add_argument("--steps", choices=["none", "grpc"], default="none")
    parser.add_argument("--journal", choices=["store", "none"], default="store")
    parser.add_argument("--batch", type=int, default=sqlite.MAX_BATCH, help="writes in a commit")
    parser.add_argument("--collector", default="", help="where spans go")
    return parser


if __name__ == "__main__":
    asyncio.run(main(_parser().parse_args()))
