"""Boundaries: which fields cross them, and which calls are audited."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mesh.testing import reason
from tests.mesh.echo import AUDITED, KINDS, REPLY
from tests.mesh.notes import Note

if TYPE_CHECKING:
    from tests.mesh.echo import Echo


@pytest.mark.parametrize("kind", KINDS)
async def test_reply_fields_above_the_class_of_the_boundary_are_cleared(
    echo: Echo, kind: str
) -> None:
    replies = await echo.send(kind, Note(text="hello"))

    assert all(reply == Note(text="hello", inner=Note()) for reply in replies)
    assert REPLY.inner.diary == "dear diary"  # the servicer's own object is unchanged


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_request_with_a_field_above_the_class_is_not_sent(echo: Echo, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await echo.send(kind, Note(notes=[Note(diary="mine")]))

    assert reason(refusal.value) == "DATA_CLASS_EXCEEDED"
    assert "Note.notes.diary may not go to echo" in str(refusal.value.details())
    assert [span.kind for span in echo.spans] == [Span.SPAN_KIND_CLIENT]


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
async def test_stream_ends_before_a_message_with_a_field_above_the_class(
    echo: Echo, kind: str
) -> None:
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await echo.send(kind, Note(diary="mine"))


async def test_caller_without_a_boundary_to_the_target_sends_nothing(echo: Echo) -> None:
    echo.rules = replace(echo.rules, source="bob")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await echo.call("unary_unary", "hello")

    assert reason(refusal.value) == "DATA_CLASS_EXCEEDED"


async def test_refused_call_is_audited(echo: Echo) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "hello", "spiffe://anya.internal/bob")

    [line] = await echo.audited()
    assert line["caller"] == "spiffe://anya.internal/bob"
    assert line["method"] == "Echo/unary_unary"
    assert line["decision"] == "deny"
    assert line["rule"] == "spiffe://anya.internal/bob is no principal of trust.yaml"
    assert line["status"] == "PERMISSION_DENIED"
    assert line["policy"] == echo.policy.current.digest
    server, _ = await echo.both_spans()
    assert line["trace_id"] == server.trace_id.hex()


async def test_unauthenticated_call_is_audited(echo: Echo) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "hello", "https://anya.internal/alice")

    [line] = await echo.audited()
    assert line["caller"] == ""
    assert line["status"] == "UNAUTHENTICATED"


async def test_refusal_by_the_servicer_is_audited_without_its_text(echo: Echo) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "refuse")

    [line] = await echo.audited()
    assert line["decision"] == "deny"
    assert line["rule"] == "alice -> echo grants 'talk'; refused for PROOF_MISSING"


@pytest.mark.parametrize("kind", KINDS)
async def test_method_with_audit_always_is_audited(echo: Echo, kind: str) -> None:
    echo.policy.replace(AUDITED)

    await echo.call(kind, "hello")

    [line] = await echo.audited()
    assert line["decision"] == "allow"
    assert line["status"] == "OK"


async def test_unexpected_error_of_an_audited_method_is_audited(echo: Echo) -> None:
    echo.policy.replace(AUDITED)

    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "crash")

    [line] = await echo.audited()
    assert line["status"] == "INTERNAL"


async def test_other_calls_are_not_audited(echo: Echo) -> None:
    await echo.call("unary_unary", "hello")
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "refuse")

    assert len(await echo.audited()) == 1
