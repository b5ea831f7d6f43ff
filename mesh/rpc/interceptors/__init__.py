"""The steps around every call. A step sees the whole life of a call through one ``yield``.

What stands before the ``yield`` runs on the way in, what stands after it on the way out, with the
outcome raised in between; so one step serves all four call shapes, on the server and the client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import grpc
    from google.protobuf.message import Message
    from opentelemetry.trace import Tracer

    from mesh.breaker import Breakers
    from mesh.rpc.interceptors.limit import Limiter
    from mesh.security.audit import AuditLog
    from mesh.security.trust import ActivePolicy, Grant


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRules:
    """What the server's steps go by."""

    service: str  # "bitcoin": the target in the policy
    policy: ActivePolicy
    trust_domain: str
    tracer: Tracer
    limiter: Limiter
    audit: AuditLog


def _nothing_may_leave(reply: Message) -> Message:
    raise PermissionError(f"no step has judged what {reply.DESCRIPTOR.full_name} may show")


@dataclass(slots=True)
class ServerCall:
    method: str  # "anya.bitcoin.v1.ChainService/GetTransaction"
    request: Message | None  # None where the client streams
    context: grpc.aio.ServicerContext[Any, Any]
    rules: ServerRules
    caller: str = ""  # SPIFFE ID, once identity has proved it
    grant: Grant | None = None  # once trust has found it
    outgoing: Callable[[Message], Message] = _nothing_may_leave  # what every reply goes through


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRules:
    """What the client's steps go by."""

    target: str  # "bitcoin": the service at the other end
    tracer: Tracer
    breakers: Breakers
    source: str = ""  # "orchestrator": who we are in the policy
    policy: ActivePolicy | None = None  # None: only the server judges what may be sent
    timeout: float = 5.0  # seconds, for calls that name none


@dataclass(slots=True)
class ClientCall:
    method: str
    request: Any  # a message, or an iterator of messages where the client streams
    timeout: float | None  # seconds
    rules: ClientRules
    metadata: dict[str, str] = field(default_factory=dict)  # what the steps add


ServerStep: TypeAlias = "Callable[[ServerCall], AbstractContextManager[None]]"
ClientStep: TypeAlias = "Callable[[ClientCall], AbstractContextManager[None]]"
