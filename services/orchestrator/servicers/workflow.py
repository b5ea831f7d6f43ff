"""WorkflowService over gRPC: parses requests, calls the worker and the store, formats replies."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from opentelemetry import trace

from anya.orchestrator.v1 import workflow_pb2 as pb
from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceServicer
from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Reason
from mesh.rpc import paging
from mesh.rpc.interceptors import request_key, trust
from mesh.rpc.interceptors.tracing import remote_parent
from services.orchestrator.definition import DefinitionInvalidError, values
from services.orchestrator.engine import request_checks
from services.orchestrator.engine.request_checks import ProvenRequest
from services.orchestrator.engine.start import StartRun
from services.orchestrator.peers.approvals import signer
from services.orchestrator.servicers import views, waits
from services.orchestrator.servicers.lists import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, list_runs
from services.orchestrator.worker.run_spans import parent_of_run, sampled, trace_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from grpc.aio import ServicerContext

    from services.orchestrator.notifications import RunNotifier
    from services.orchestrator.peers.approvals import Approvals
    from services.orchestrator.registry import WorkflowRegistry
    from services.orchestrator.store.commits import NewRun
    from services.orchestrator.store.definitions import Definitions
    from services.orchestrator.store.erasure import Erasure
    from services.orchestrator.store.run_store import RunStore
    from services.orchestrator.worker.worker import Worker

MAX_PROBLEMS = 20  # in one status, which is sent as a header


class WorkflowServicer(WorkflowServiceServicer):
    def __init__(
        self,
        definitions: Definitions,
        registry: WorkflowRegistry,
        store: RunStore,
        worker: Worker,
        notifier: RunNotifier,
        erasure: Erasure,
        approvals: Approvals,
    ) -> None:
        self._approvals = approvals
        self._definitions = definitions
        self._registry = registry
        self._store = store
        self._worker = worker
        self._notifier = notifier
        self._erasure = erasure

    async def RegisterWorkflow(
        self,
        request: pb.RegisterWorkflowRequest,
        context: ServicerContext[pb.RegisterWorkflowRequest, pb.RegisterWorkflowResponse],
    ) -> pb.RegisterWorkflowResponse:
        try:
            caller = trust.current_caller()
            stored = await self._registry.register(request.definition, caller)
        except DefinitionInvalidError as error:
            raise _invalid(error) from None
        return pb.RegisterWorkflowResponse(
            workflow=views.format_workflow(stored), privileges=self._registry.privileges(stored)
        )

    async def GetWorkflow(
        self,
        request: pb.GetWorkflowRequest,
        context: ServicerContext[pb.GetWorkflowRequest, pb.GetWorkflowResponse],
    ) -> pb.GetWorkflowResponse:
        stored = await self._definitions.find(request.workflow_id, request.definition_hash)
        return pb.GetWorkflowResponse(workflow=views.format_workflow(stored))

    async def ListWorkflows(
        self,
        request: pb.ListWorkflowsRequest,
        context: ServicerContext[pb.ListWorkflowsRequest, pb.ListWorkflowsResponse],
    ) -> pb.ListWorkflowsResponse:
        limit = paging.page_size(
            request.page_size, default=DEFAULT_PAGE_SIZE, maximum=MAX_PAGE_SIZE
        )
        position = paging.read_token(request.page_token, "workflows", str)
        found = await self._definitions.page(after=position[0] if position else "", limit=limit + 1)
        page, token = paging.cut(found, limit, "workflows", lambda stored: stored.workflow_id)
        return pb.ListWorkflowsResponse(
            workflows=[views.format_workflow(stored) for stored in page], next_page_token=token
        )

    async def StartRun(
        self,
        request: pb.StartRunRequest,
        context: ServicerContext[pb.StartRunRequest, pb.StartRunResponse],
    ) -> pb.StartRunResponse:
        seconds, view = waits.read_wait(request.wait), views.read_view(request.view)
        work = start_run(self._worker, request.workflow_id, _parse(request), reply=_format_started)
        if not seconds:
            return pb.StartRunResponse.FromString(await work)
        with self._notifier.await_end(request.request_id) as completion:
            started = pb.StartRunResponse.FromString(await work)
            run_id = request.request_id
            state = await waits.end_of(run_id, completion, self._store, self._worker, seconds)
        if state is None:
            stored = await self._store.load(run_id)
            started.run.CopyFrom(views.format_run(stored.row, stored.state, view))
        else:
            started.run.CopyFrom(views.format_state(state, started.trace_id, view))
        started.status = started.run.status
        return started

    async def SignalRun(
        self,
        request: pb.SignalRunRequest,
        context: ServicerContext[pb.SignalRunRequest, pb.SignalRunResponse],
    ) -> pb.SignalRunResponse:
        payload = values.from_given(request.payload, "payload")
        signal = request_checks.signal(request.signal, payload, request.correlation_id)
        await self._worker.inbox.send(request_key.current(), request.run_id, signal)
        return pb.SignalRunResponse(run=await self._list(request.run_id))

    async def ApproveRun(
        self,
        request: pb.ApproveRunRequest,
        context: ServicerContext[pb.ApproveRunRequest, pb.ApproveRunResponse],
    ) -> pb.ApproveRunResponse:
        first = await self._approvals.approve(
            request_key.current(),
            request.run_id,
            request.step,
            request.approval,
            views.format_approved,
        )
        reply = pb.ApproveRunResponse.FromString(first)
        reply.approver = signer(request.approval)
        reply.run.CopyFrom(await self._show(request.run_id))
        return reply

    async def CancelRun(
        self,
        request: pb.CancelRunRequest,
        context: ServicerContext[pb.CancelRunRequest, pb.CancelRunResponse],
    ) -> pb.CancelRunResponse:
        key = request_key.current()
        cancel = request_checks.cancel(request.reason, key.caller)
        await self._worker.inbox.send(key, request.run_id, cancel)
        return pb.CancelRunResponse(run=await self._show(request.run_id))

    async def EraseRun(
        self,
        request: pb.EraseRunRequest,
        context: ServicerContext[pb.EraseRunRequest, pb.EraseRunResponse],
    ) -> pb.EraseRunResponse:
        def reply(erased_us: int) -> bytes:
            run = pb.Run(run_id=request.run_id, erase_time=views.time(erased_us))
            return pb.EraseRunResponse(run=run).SerializeToString()

        first = await self._erasure.erase(request_key.current(), request.run_id, reply)
        self._notifier.notify(request.run_id)
        erased = pb.EraseRunResponse.FromString(first)
        erased.run.MergeFrom(await self._show(request.run_id))
        return erased

    async def RedriveRun(
        self,
        request: pb.RedriveRunRequest,
        context: ServicerContext[pb.RedriveRunRequest, pb.RedriveRunResponse],
    ) -> pb.RedriveRunResponse:
        key = request_key.current()
        request_checks.check_length("reason", request.reason, request_checks.MAX_REASON_CHARS)
        await self._worker.redrive(key, request.run_id, request.reason)
        return pb.RedriveRunResponse(run=await self._show(request.run_id))

    async def _show(self, run_id: str) -> pb.Run:
        """Returns the run in the view BASIC, for the reply to a call whose effect is committed.

        The reply must not fail after that: if the run cannot be read, it holds only the id. A retry
        reads the run again, so that the stored reply holds no data that an erasure must remove.
        """
        try:
            stored = await self._store.load(run_id)
        except (NotFound, FailedPrecondition):
            return pb.Run(run_id=run_id)
        return views.format_run(stored.row, stored.state, pb.RUN_VIEW_BASIC)

    async def _list(self, run_id: str) -> pb.Run:
        """Returns the run as a list shows it, at a cost that does not grow with its records."""
        try:
            return views.format_row(await self._store.row(run_id))
        except NotFound:
            return pb.Run(run_id=run_id)

    async def GetRun(
        self,
        request: pb.GetRunRequest,
        context: ServicerContext[pb.GetRunRequest, pb.GetRunResponse],
    ) -> pb.GetRunResponse:
        view = views.read_view(request.view)
        stored = await self._store.load(request.run_id)
        return pb.GetRunResponse(run=views.format_run(stored.row, stored.state, view))

    async def ListRuns(
        self,
        request: pb.ListRunsRequest,
        context: ServicerContext[pb.ListRunsRequest, pb.ListRunsResponse],
    ) -> pb.ListRunsResponse:
        return await list_runs(self._store.query, request)

    async def WatchRun(
        self,
        request: pb.WatchRunRequest,
        context: ServicerContext[pb.WatchRunRequest, pb.WatchRunResponse],
    ) -> AsyncIterator[pb.WatchRunResponse]:
        async with aclosing(waits.watch_run(self._store, self._notifier, request)) as updates:
            async for update in updates:
                yield update


async def start_run(
    worker: Worker, workflow_id: str, start: StartRun, *, reply: Callable[[NewRun], bytes]
) -> bytes:
    """Starts a run for the call being served; returns the first reply to its request_id.

    A run that pays is always sampled: an operator may have to inspect it.
    """
    start = replace(start, allowed_privileges=trust.current_bounds().run_privileges)
    serving = trace.get_current_span().get_span_context()
    traceparent = parent_of_run(start.run_id, remote_parent(), serving)
    if start.intent is not None or start.payments:
        traceparent = sampled(traceparent)
    key = request_key.current()
    await worker.quota.admit(key)
    return await worker.start(key, workflow_id, start, traceparent, reply)


def _parse(request: pb.StartRunRequest) -> StartRun:
    return StartRun(
        run_id=request.request_id,
        input=values.from_given(request.input, "input"),
        intent=request.intent if request.HasField("intent") else None,
        presentation=request.presentation,
        started_by=request_key.current().caller,
        payments=tuple(map(_parse_proven, request.payments)),
    )


def _parse_proven(payment: pb.ProvenPayment) -> ProvenRequest:
    return ProvenRequest(
        payment.intent if payment.HasField("intent") else None, payment.presentation
    )


def _format_started(new: NewRun) -> bytes:
    return pb.StartRunResponse(
        run_id=new.state.run_id,
        status=views.run_status(new.state.status),
        trace_id=trace_id_of(new.traceparent),
    ).SerializeToString()


def _invalid(error: DefinitionInvalidError) -> InvalidArgument:
    lines = [str(problem) for problem in error.problems[:MAX_PROBLEMS]]
    if more := len(error.problems) - len(lines):
        lines.append(f"and {more} more")
    return InvalidArgument("\n".join(lines), reason=Reason.DEFINITION_INVALID, field="definition")
