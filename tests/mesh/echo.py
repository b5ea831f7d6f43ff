"""A real server with all four kinds of calls, and a real client that may call it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from mesh.breaker import Breakers, BreakerSettings
from mesh.clock import ManualClock, SystemClock
from mesh.errors import NotFound, PermissionDenied, Reason, ResourceExhausted
from mesh.observability.span_ids import DerivedIdGenerator
from mesh.rpc.client import open_channel
from mesh.rpc.interceptors import ClientRules, ServerRules, tracing
from mesh.rpc.interceptors.limit import Limiter
from mesh.rpc.server import build_server, credentials
from mesh.security.audit import open_audit
from mesh.security.trust import ActivePolicy
from mesh.testing import Authority, eventually
from tests.mesh.notes import Note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

    from mesh.clock import Clock

ALICE = "spiffe://anya.internal/alice"
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
PRIVILEGES = {f"Echo/{kind}": "talk" for kind in KINDS}
REPLY = Note(text="hello", inner=Note(diary="dear diary"))
POLICY = f"""
version: 1
principals: {{alice: ["{ALICE}"], echo: ["spiffe://anya.internal/echo"]}}
boundaries:
  - from: alice
    to: echo
    max_class: public
    methods: {{{", ".join(f"{name}: {{}}" for name in PRIVILEGES)}}}
"""
AUDITED = POLICY.replace(": {}", ": {audit: always}")


HOPS: list[grpc.aio.Channel] = []  # the target of "relay"


async def answer(request: Any, context: Any) -> Any:
    note = request if isinstance(request, Note) else await anext(aiter(request))
    if note.text == "crash":
        raise RuntimeError("the password is hunter2")
    if note.text == "quote":
        raise NotFound(f"no {'ä' * 20_000}", field="ä")
    if note.text == "stay":
        return Note(text="stay")
    if note.text == "who":
        remote = tracing.remote_parent()
        return Note(text=f"{remote.span_id:x}" if remote else "none")
    if note.text == "left":
        return Note(text=str(context.time_remaining()))
    if note.text == "relay":
        onward: Any = HOPS[0].unary_unary(
            "/Echo/unary_unary", Note.SerializeToString, Note.FromString
        )
        return await onward(Note(text="left"))
    if note.text == "refuse":
        raise PermissionDenied("what was in the request", reason=Reason.PROOF_MISSING)
    if note.text == "spend":
        raise ResourceExhausted("alice has spent it all", reason=Reason.BUDGET_EXCEEDED)
    if note.text == "crowd":
        raise ResourceExhausted("too many at once", reason=Reason.OVERLOADED)
    return REPLY  # one object for all callers: no reply may change it


async def one(request: Any, context: Any) -> Any:
    return await answer(request, context)


async def many(request: Any, context: Any) -> AsyncIterator[Any]:
    reply = await answer(request, context)
    for _ in range(3):
        yield reply
    if reply.text == "stay":
        await asyncio.Event().wait()


def method(kind: str) -> Any:
    build = getattr(grpc, f"{kind}_rpc_method_handler")
    behaviour = many if kind.endswith("stream") else one
    return build(behaviour, Note.FromString, Note.SerializeToString)


def attributes_of(span: Span) -> dict[str, str]:
    """Returns the attributes of a span."""
    return {pair.key: pair.value.string_value for pair in span.attributes}


@dataclass
class Echo:
    """The running server, and the rules of its client."""

    authority: Authority
    port: int
    spans: list[Span]  # finished ones, as a collector receives them
    policy: ActivePolicy
    rules: ClientRules
    audit_file: Path
    server_rules: ServerRules

    @asynccontextmanager
    async def channel(self, *spiffe_ids: str) -> AsyncIterator[grpc.aio.Channel]:
        identity = self.authority.issue(*spiffe_ids or (ALICE,))
        async with open_channel(f"127.0.0.1:{self.port}", self.rules, identity) as channel:
            yield channel

    async def call(self, kind: str, text: str, *spiffe_ids: str) -> list[str]:
        return [note.text for note in await self.send(kind, Note(text=text), *spiffe_ids)]

    async def send(self, kind: str, note: Any, *spiffe_ids: str) -> list[Any]:
        async with self.channel(*spiffe_ids) as channel:
            stub = getattr(channel, kind)(f"/Echo/{kind}", Note.SerializeToString, Note.FromString)
            call = stub(iter([note]) if kind.startswith("stream") else note)
            if kind.endswith("unary"):
                return [await call]
            return [reply async for reply in call]

    async def audited(self) -> list[dict[str, Any]]:
        """Returns the lines of the audit log, once it has any."""
        await eventually(lambda: bool(self.audit_file.read_bytes()))
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]

    async def both_spans(self) -> tuple[Span, Span]:
        """Returns the spans of server and client, once both have ended."""
        await eventually(lambda: len(self.spans) == 2)
        server, client = sorted(self.spans, key=lambda span: span.kind)
        return server, client


class ListExporter(SpanExporter):
    """Adds the spans to a list, as a collector receives them."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for resource in encode_spans(spans).resource_spans:
            self._spans += resource.scope_spans[0].spans
        return SpanExportResult.SUCCESS


@asynccontextmanager
async def serving(
    authority: Authority,
    folder: Path,
    *,
    max_in_flight: int = 8,
    sampler: Sampler = DEFAULT_ON,
    clock: Clock | None = None,
) -> AsyncIterator[Echo]:
    spans: list[Span] = []
    provider = TracerProvider(sampler, shutdown_on_exit=False, id_generator=DerivedIdGenerator())
    provider.add_span_processor(SimpleSpanProcessor(ListExporter(spans)))
    tracer = provider.get_tracer("echo")
    policy = ActivePolicy(POLICY, PRIVILEGES)
    with open_audit(folder / "audit.jsonl") as audit:
        rules = ServerRules(
            service="echo",
            policy=policy,
            trust_domain="anya.internal",
            tracer=tracer,
            limiter=Limiter(max_in_flight),
            audit=audit,
            clock=clock or SystemClock(),
        )
        server = build_server(rules)
        handlers = {kind: method(kind) for kind in KINDS}
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Echo", handlers)])
        identity = authority.issue(ALICE, dns=("echo",))
        port = server.add_secure_port("127.0.0.1:0", credentials(identity))
        await server.start()
        breakers = Breakers(ManualClock(), BreakerSettings(minimum_calls=2))
        client_rules = ClientRules(
            source="alice", target="echo", policy=policy, tracer=tracer, breakers=breakers
        )
        yield Echo(authority, port, spans, policy, client_rules, folder / "audit.jsonl", rules)
        await server.stop(None)
