"""Spans of calls: two per call in one trace, with chosen ids, or none if unsampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from mesh.breaker import BreakerState
from mesh.observability.span_ids import ChildSpans, derive_span_ids
from mesh.testing import Authority, eventually
from tests.mesh.echo import ALICE, KINDS, attributes_of, serving
from tests.mesh.notes import Note

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mesh.echo import Echo


@pytest.mark.parametrize("kind", KINDS)
async def test_both_spans_of_a_call_are_in_one_trace(echo: Echo, kind: str) -> None:
    await echo.call(kind, "hello")

    server, client = await echo.both_spans()
    assert server.trace_id == client.trace_id
    assert server.parent_span_id == client.span_id
    assert {attributes_of(span)["rpc.response.status_code"] for span in (server, client)} == {"OK"}


@pytest.mark.parametrize("kind", KINDS)
async def test_refusal_is_in_both_spans_and_fails_only_the_clients(echo: Echo, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call(kind, "hello", "spiffe://anya.internal/bob")

    server, client = await echo.both_spans()
    assert attributes_of(server)["anya.reason"] == "PERMISSION_NOT_GRANTED"
    assert attributes_of(server)["rpc.response.status_code"] == "PERMISSION_DENIED"
    assert server.status.code == Status.STATUS_CODE_UNSET
    assert client.status.code == Status.STATUS_CODE_ERROR


async def test_chosen_span_id_is_the_one_of_the_call(echo: Echo) -> None:
    span_id, call_id = derive_span_ids("run", "step", 1)

    with ChildSpans(0x1234, span_id, trace.TraceFlags.SAMPLED, call_id):
        await echo.call("unary_unary", "hello")
        await echo.call("unary_unary", "hello")

    await eventually(lambda: len(echo.spans) == 4)
    ids = [int.from_bytes(span.span_id, "big") for span in echo.spans]
    assert ids.count(call_id) == 1
    assert {span.trace_id for span in echo.spans} == {(0x1234).to_bytes(16, "big")}


async def test_servicer_knows_the_span_of_its_caller(echo: Echo) -> None:
    with ChildSpans(0x1234, 1, trace.TraceFlags.SAMPLED, 0xABC):
        assert await echo.call("unary_unary", "who") == ["abc"]


@pytest.mark.parametrize("kind", KINDS)
async def test_unsampled_trace_opens_no_span(
    authority: Authority, tmp_path: Path, kind: str
) -> None:
    unsampled = trace.SpanContext(0x1234, 0xABC, is_remote=True)

    async with serving(authority, tmp_path) as echo:
        with trace.use_span(trace.NonRecordingSpan(unsampled)):
            replies = await echo.call(kind, "who")

        assert set(replies) == {"abc"}
        assert not echo.spans


async def test_trace_with_an_unsampled_root_is_unsampled_everywhere(
    authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority, tmp_path, sampler=ALWAYS_OFF) as echo:
        await echo.call("unary_unary", "hello")

        assert not echo.spans


async def test_span_of_an_unread_stream_ends_with_its_call(echo: Echo) -> None:
    async with echo.channel() as channel:
        stub: Any = channel.unary_stream(
            "/Echo/unary_stream", Note.SerializeToString, Note.FromString
        )
        call = stub(Note(text="hello"))
        await call.wait_for_connection()
        call.cancel()

        await eventually(lambda: any(span.kind == Span.SPAN_KIND_CLIENT for span in echo.spans))

    breaker = echo.rules.breakers["Echo"]
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
    ],
)
async def test_malformed_traceparent_starts_a_new_trace(echo: Echo, traceparent: str) -> None:
    identity = echo.authority.issue(ALICE)
    credentials = grpc.ssl_channel_credentials(
        identity.ca.read_bytes(), identity.key.read_bytes(), identity.certificate.read_bytes()
    )
    async with grpc.aio.secure_channel(f"localhost:{echo.port}", credentials) as channel:
        stub: Any = channel.unary_unary(
            "/Echo/unary_unary", Note.SerializeToString, Note.FromString
        )
        metadata = (("traceparent", traceparent),)
        reply = await stub(Note(text="who"), metadata=metadata, timeout=5)

    assert reply.text == "none"
