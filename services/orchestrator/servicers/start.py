"""The start of a run on behalf of the call being served: its key, its trace, and what it may do."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from opentelemetry import trace

from mesh.rpc.interceptors import request_key, trust
from mesh.rpc.interceptors.tracing import remote_parent
from services.orchestrator.worker.run_spans import parent_of_run, sampled

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.orchestrator.engine.start import StartRun
    from services.orchestrator.store.commits import NewRun
    from services.orchestrator.worker.worker import Worker


async def start_run(
    runner: Worker, workflow_id: str, start: StartRun, *, reply: Callable[[NewRun], bytes]
) -> bytes:
    """The first reply under this call's request_id, whoever asks for it again.

    What pays is traced, also for a caller who traces nothing: somebody may have to look.
    """
    start = replace(start, allowed_privileges=trust.current_bounds().run_privileges)
    serving = trace.get_current_span().get_span_context()
    traceparent = parent_of_run(start.run_id, remote_parent(), serving)
    if start.intent is not None or start.payments:
        traceparent = sampled(traceparent)
    return await runner.start(request_key.current(), workflow_id, start, traceparent, reply)
