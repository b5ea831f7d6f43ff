"""Boundaries: how far data travels, and who went on record."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mesh.testing import reason
from tests.mesh.echo import AUDITED, SAID, SHAPES
from tests.mesh.notes import Note

if TYPE_CHECKING:
    from tests.mesh.echo import Echo


@pytest.mark.parametrize("shape", SHAPES)
async def test_no_reply_shows_what_is_above_the_class_of_the_boundary(
    echo: Echo, shape: str
) -> None:
    replies = await echo.send(shape, Note(text="hello"))

    assert all(reply == Note(text="hello", inner=Note()) for reply in replies)
    assert SAID.inner.diary == "dear diary"  # what the servicer holds is not touched


@pytest.mark.parametrize("shape", ["unary_unary", "unary_stream"])
async def test_a_request_with_what_the_target_may_not_see_is_not_sent(
    echo: Echo, shape: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await echo.send(shape, Note(notes=[Note(diary="mine")]))

    assert reason(refusal.value) == "DATA_CLASS_EXCEEDED"
    assert "Note.notes.diary may not go to echo" in str(refusal.value.details())
    assert [span.kind for span in echo.spans] == [Span.SPAN_KIND_CLIENT]


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
async def test_a_stream_ends_before_the_message_that_the_target_may_not_see(
    echo: Echo, shape: str
) -> None:
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await echo.send(shape, Note(diary="mine"))


async def test_a_caller_without_a_boundary_to_the_target_sends_nothing(echo: Echo) -> None:
    echo.rules = replace(echo.rules, source="bob")

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await echo.call("unary_unary", "hello")

    assert reason(refusal.value) == "DATA_CLASS_EXCEEDED"


async def test_a_refused_caller_goes_on_record(echo: Echo) -> None:
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


async def test_a_caller_without_a_name_goes_on_record(echo: Echo) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "hello", "https://anya.internal/alice")

    [line] = await echo.audited()
    assert line["caller"] == ""
    assert line["status"] == "UNAUTHENTICATED"


async def test_a_refusal_by_the_servicer_goes_on_record_without_its_words(echo: Echo) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "refuse")

    [line] = await echo.audited()
    assert line["decision"] == "deny"
    assert line["rule"] == "alice -> echo grants 'talk'; refused for PROOF_MISSING"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_method_that_is_always_audited_goes_on_record(echo: Echo, shape: str) -> None:
    echo.policy.replace(AUDITED)

    await echo.call(shape, "hello")

    [line] = await echo.audited()
    assert line["decision"] == "allow"
    assert line["status"] == "OK"


async def test_what_nobody_foresaw_goes_on_record_where_all_is_audited(echo: Echo) -> None:
    echo.policy.replace(AUDITED)

    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "crash")

    [line] = await echo.audited()
    assert line["status"] == "INTERNAL"


async def test_other_calls_leave_no_record(echo: Echo) -> None:
    await echo.call("unary_unary", "hello")
    with pytest.raises(grpc.aio.AioRpcError):
        await echo.call("unary_unary", "refuse")

    assert len(await echo.audited()) == 1
