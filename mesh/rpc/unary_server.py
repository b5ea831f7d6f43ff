"""The server's path of a unary call: what the interceptors do, in their order, in one function.

No generator, context manager or second task is made. Each step is the function that its
interceptor calls, so that every rule is written once; what is written here is the order alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from mesh.errors import MeshError
from mesh.rpc.call import current
from mesh.rpc.interceptors import (
    audit,
    data_policy,
    deadline,
    errors,
    identity,
    request_key,
    tracing,
    trust,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from mesh.rpc.interceptors import ServerRules

    Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Message]]


def unary_path(handler: Any, method: str, rules: ServerRules) -> Callable[..., Any]:
    """Returns the servicer's method with every step of the server around it.

    A call that fails or is cancelled at any point leaves by the same ``finally`` blocks, from the
    inside out: one audit entry, one slot given back, one end of the span.
    """
    behaviour: Behaviour = handler.unary_unary
    attributes = tracing.attributes_of(method)
    limiter, tracer = rules.limiter, rules.tracer
    skip = tracing.skips_unsampled(tracer)

    async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        serving = current.get()
        span = tracing.start_server_span(serving, tracer, attributes, skip=skip)
        code = grpc.StatusCode.CANCELLED  # by the caller or the deadline, unless the call ends
        try:
            try:
                serving.deadline = deadline.deadline_of(context)
                limiter.acquire()
                try:
                    status: str = audit.UNEXPECTED
                    refusal: MeshError | None = None
                    try:
                        identity.identify_caller(serving, context, rules)
                        grant = serving.grant = trust.grant_of(serving, rules, span)
                        if request is None:
                            raise errors.malformed_request()
                        request_key.bind_key(serving, request)
                        reply = await behaviour(request, context)
                        reply = data_policy.cleared(reply, highest=grant.max_class)
                        request_key.reach_reply(method)
                        status = audit.OK
                    except (MeshError, asyncio.CancelledError) as error:
                        status, refusal = audit.outcome_of(error)
                        raise
                    finally:
                        try:
                            audit.record_end(serving, rules, status, refusal)
                        finally:
                            refusal = None  # or it would keep this frame, and the frame it
                finally:
                    limiter.release()
            except MeshError as error:
                errors.answer(context, error)
                reply = None
            except Exception:
                errors.answer_unexpected(context, method)
                reply = None
            if span is not None:
                code = tracing.status_of(context)
        finally:
            if span is not None:
                tracing.end_server_span(span, code)
        return reply

    return serve
