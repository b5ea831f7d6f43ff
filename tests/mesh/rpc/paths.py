"""One call by each path, and all that is seen of it: by its caller, in audit log, spans, breaker.

``unary`` is what services run; ``interceptors`` is its specification, the same call through
INTERCEPTORS on both sides. The other paths are streams.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from anya.mesh.v1 import options_pb2 as options
from mesh.breaker import Breakers, BreakerSettings, BreakerState
from mesh.clock import ManualClock
from mesh.rpc.client import ClientAdapter, open_channel
from mesh.rpc.interceptors import ClientRules, ServerRules
from mesh.rpc.interceptors.limit import Limiter
from mesh.rpc.server import GuardedServer, build_server, credentials, intercepted
from mesh.rpc.status import DETAILS_KEY
from mesh.security.audit import open_audit
from mesh.security.trust import ActivePolicy
from mesh.testing import eventually
from tests.mesh.echo import ALICE, POLICY, PRIVILEGES
from tests.mesh.notes import Note

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.context import Context

    from mesh.config import Identity
    from mesh.testing import Authority

PATHS = {
    "unary": "unary_unary",
    "interceptors": "unary_unary",
    "unary_stream": "unary_stream",
    "stream_unary": "stream_unary",
    "stream_stream": "stream_stream",
}
SLOTS = 3
CASE_TIMEOUT_S = 10.0
VARIES = re.compile(r"(?<=internal error )[0-9a-f]{32}")


def _ask() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/ask.proto",
        package="tests",
        syntax="proto3",
        dependency=[options.DESCRIPTOR.name],
    )
    ask = file.message_type.add(name="Ask")
    for number, name in enumerate(("text", "request_id", "diary"), 1):
        one = ask.field.add(name=name, number=number, label=1, type=9)
        private = name == "diary"
        one.options.Extensions[options.data_class] = (
            options.DATA_CLASS_PII if private else options.DATA_CLASS_PUBLIC
        )
    descriptor_pool.Default().Add(file)
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("tests.Ask"))


Ask: Any = _ask()
Act = Callable[[Any, Any], Awaitable[Any]]  # what the servicer does: (request, context) -> reply


@dataclass
class Case:
    """A call, and where it starts from."""

    act: Act
    request: Any = field(default_factory=lambda: Ask(request_id="a"))
    spiffe_ids: Sequence[str] = (ALICE,)
    policy: str = POLICY
    timeout: float | None = 5.0
    parent: trace.SpanContext | None = None  # the current span of the client
    raw: Sequence[tuple[str, str | bytes]] | None = None  # sent by a bare client, with no step
    body: bytes | None = None  # instead of the request's, by a bare client
    slots: int = SLOTS
    circuit: BreakerState = BreakerState.HALF_OPEN  # of one probe, which shows each outcome
    end: Callable[[Any], Awaitable[None]] | None = None  # what the caller does to the running call


@dataclass
class Seen:
    """All that is seen of a call."""

    code: str
    details: str
    trailers: list[tuple[str, str]]
    reply: bytes
    audit: list[Mapping[str, str]]
    spans: list[tuple[Any, ...]]
    circuit: BreakerState
    free_slots: int


class Ended(SpanProcessor):
    """Keeps the spans that have ended, and counts those that have not."""

    def __init__(self) -> None:
        self.open = 0
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        self.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.open -= 1
        self.spans.append(span)


class CountingLimiter(Limiter):
    """A limiter whose free slots can be read."""

    @property
    def free(self) -> int:
        return self._free


class UnaryAdapter(ClientAdapter, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary: Any = ClientAdapter.call_unary


async def see(case: Case, path: str, authority: Authority, folder: Path) -> Seen:
    """Makes the call of the case by the path, and returns all that is seen of it."""
    ended, limiter = Ended(), CountingLimiter(case.slots)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ended)
    tracer = provider.get_tracer("paths")
    policy = ActivePolicy(case.policy, PRIVILEGES)
    breakers = _breakers(case.circuit)
    client = ClientRules(
        source="alice", target="echo", policy=policy, tracer=tracer, breakers=breakers
    )
    with open_audit(folder / "audit.jsonl") as audit:
        rules = ServerRules(
            service="echo",
            policy=policy,
            trust_domain="anya.internal",
            tracer=tracer,
            limiter=limiter,
            audit=audit,
        )
        async with _serving(rules, path, case, authority) as port:
            identity = authority.issue(*case.spiffe_ids)
            async with _channel(case, path, port, client, identity) as channel:
                answer = await asyncio.wait_for(_call(channel, case, path), CASE_TIMEOUT_S)
                await eventually(lambda: limiter.free == case.slots and not ended.open)
    lines = (folder / "audit.jsonl").read_text().splitlines()
    return Seen(
        *answer,
        [_audited(json.loads(line), ended.spans, path) for line in lines],
        [_span(span, ended.spans, path) for span in sorted(ended.spans, key=_order)],
        breakers["Echo"].state,
        limiter.free,
    )


def _breakers(circuit: BreakerState) -> Breakers:
    clock, settings = ManualClock(), BreakerSettings(minimum_calls=1, probes=1)
    breakers = Breakers(clock, settings)
    if circuit is not BreakerState.CLOSED:
        breakers["Echo"].release(breakers["Echo"].acquire(), failed=True)
    if circuit is BreakerState.HALF_OPEN:
        clock.advance(settings.wait_open_s)
    return breakers


@asynccontextmanager
async def _serving(
    rules: ServerRules, path: str, case: Case, authority: Authority
) -> AsyncIterator[int]:
    kind = PATHS[path]

    async def one(request: Any, context: Any) -> Any:
        given = request if isinstance(request, Ask) else await anext(aiter(request))
        return await case.act(given, context)

    async def many(request: Any, context: Any) -> AsyncIterator[Any]:
        yield await one(request, context)

    behaviour = many if kind.endswith("stream") else one
    build: Any = getattr(grpc, f"{kind}_rpc_method_handler")
    method = build(behaviour, Ask.FromString, Note.SerializeToString)
    server = build_server(rules)
    if path == "interceptors":
        server = GuardedServer(grpc.aio.server(), rules, unary=intercepted)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Echo", {kind: method})])
    port = server.add_secure_port("127.0.0.1:0", credentials(authority.issue(ALICE, dns=("echo",))))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def _channel(
    case: Case, path: str, port: int, rules: ClientRules, identity: Identity
) -> grpc.aio.Channel:
    target = f"localhost:{port}"
    if case.raw is None and path != "interceptors":
        return open_channel(target, rules, identity)
    channel_credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    adapters = [UnaryAdapter(rules)] if case.raw is None else []
    return grpc.aio.secure_channel(target, channel_credentials, interceptors=adapters)


async def _call(
    channel: Any, case: Case, path: str
) -> tuple[str, str, list[tuple[str, str]], bytes]:
    kind = PATHS[path]
    body = case.body
    serialize = Ask.SerializeToString if body is None else lambda _: body
    stub = getattr(channel, kind)(f"/Echo/{kind}", serialize, Note.FromString)
    request = iter([case.request]) if kind.startswith("stream") else case.request
    outer = trace.NonRecordingSpan(case.parent) if case.parent else trace.INVALID_SPAN
    with trace.use_span(outer):
        options = {"metadata": tuple(case.raw)} if case.raw else {}
        call = stub(request, timeout=case.timeout, **options)
    try:
        if case.end is not None:
            await case.end(call)
        reply = await (anext(aiter(call)) if kind.endswith("stream") else call)
        if kind.endswith("stream"):
            async for _ in call:
                raise AssertionError("a second reply")
    except grpc.aio.AioRpcError as error:
        details = VARIES.sub("ID", _named(error.details() or "", path))
        return error.code().name, details, _trailers(error.trailing_metadata(), path), b""
    except asyncio.CancelledError:
        return "cancelled here", "", [], b""
    assert await call.code() is grpc.StatusCode.OK
    return (
        "OK",
        await call.details(),
        _trailers(await call.trailing_metadata(), path),
        bytes(reply.SerializeToString(deterministic=True)),
    )


def _trailers(metadata: Any, path: str) -> list[tuple[str, str]]:
    return [(key, _text(key, value, path)) for key, value in metadata or ()]


def _text(key: str, value: str | bytes, path: str) -> str:
    text = value if isinstance(value, str) else repr(value)
    if key == DETAILS_KEY and isinstance(value, bytes):
        status = Status.FromString(value)
        kinds: list[Any] = [ErrorInfo, BadRequest, RetryInfo]
        details = [kind() for kind in kinds for one in status.details if one.Is(kind.DESCRIPTOR)]
        for packed, detail in zip(status.details, details, strict=True):
            packed.Unpack(detail)
        text = f"{status.code} {status.message} {details}"
    return VARIES.sub("ID", _named(text, path))


def _audited(line: dict[str, Any], spans: Sequence[ReadableSpan], path: str) -> Mapping[str, str]:
    """Returns what an entry says; of its trace only if it is the one of the spans."""
    for name in ("time", "sequence", "hash", "previous"):
        del line[name]
    known = {trace.format_trace_id(span.context.trace_id) for span in spans}
    line["trace_id"] = "the spans'" if line["trace_id"] in known else line["trace_id"]
    return {key: _named(value, path) for key, value in line.items()}


def _order(span: ReadableSpan) -> tuple[int, str]:
    return span.kind.value, span.name


def _span(span: ReadableSpan, spans: Sequence[ReadableSpan], path: str) -> tuple[Any, ...]:
    """Returns all of a span that two calls have in common; its parent by kind, or by id."""
    own = {other.context.span_id: other.kind.name for other in spans}
    parent = span.parent and own.get(span.parent.span_id, hex(span.parent.span_id))
    attributes = {key: _named(value, path) for key, value in (span.attributes or {}).items()}
    return (
        _named(span.name, path),
        span.kind.name,
        parent,
        span.parent is not None and span.parent.is_remote,
        dict(span.context.trace_state),
        sorted(attributes.items()),
        span.status.status_code.name,
        span.status.description,
        [event.name for event in span.events],
    )


def _named(value: Any, path: str) -> Any:
    return value.replace(PATHS[path], "METHOD") if isinstance(value, str) else value
