"""The interceptors around every call: generators with one ``yield``.

The code before the ``yield`` runs before the call, the code after it when the call ends; a failed
call raises its error at the ``yield``. So one interceptor serves all four kinds of calls, on the
server as on the client.

Streams run the interceptors. Unary calls run ``mesh/rpc/unary_server.py`` and ``unary_client.py``,
which call the same functions in the same order without generators, at half the cost.
``tests/mesh/rpc/test_paths.py`` holds both to the same behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mesh.clock import SystemClock
from mesh.rpc.open_streams import OpenStreams

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import grpc
    from google.protobuf.message import Message
    from opentelemetry.trace import Tracer

    from mesh.breaker import Breakers
    from mesh.clock import Clock
    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors.limit import Limiter
    from mesh.security.audit import AuditLog
    from mesh.security.trust import ActivePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRules:
    """The settings and shared parts of the server's interceptors."""

    service: str  # "bitcoin": the target in the policy
    policy: ActivePolicy
    trust_domain: str
    tracer: Tracer
    limiter: Limiter
    audit: AuditLog
    clock: Clock = field(default_factory=SystemClock)  # judges the validity of certificates
    streams: OpenStreams = field(default_factory=OpenStreams)


def _deny_all(reply: Message) -> Message:
    """Refuses every reply until ``data_policy.redact`` has set its filter."""
    raise PermissionError(f"no interceptor has decided what {reply.DESCRIPTOR.full_name} may show")


@dataclass(slots=True)
class ServerCall:
    request: Message | None  # None where the client streams
    context: grpc.aio.ServicerContext[Any, Any]
    rules: ServerRules
    serving: ServingCall
    outgoing: Callable[[Message], Message] = _deny_all  # filters every reply


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRules:
    """The settings and shared parts of the client's interceptors."""

    target: str  # "bitcoin": the service at the other end
    tracer: Tracer
    breakers: Breakers
    source: str = ""  # "orchestrator": the name of this process in the policy
    policy: ActivePolicy | None = None  # None: only the server checks what may be sent
    timeout: float = 5.0  # seconds, for calls without a timeout of their own


@dataclass(slots=True)
class ClientCall:
    method: str
    request: Any  # a message, or an iterator of messages where the client streams
    timeout: float | None  # seconds
    rules: ClientRules
    metadata: tuple[tuple[str, str], ...] = field(default=())  # added by the interceptors


ServerInterceptor: TypeAlias = "Callable[[ServerCall], AbstractContextManager[None]]"
ClientInterceptor: TypeAlias = "Callable[[ClientCall], AbstractContextManager[None]]"
