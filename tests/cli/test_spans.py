"""The span store: it finds spans by trace, shows them as a waterfall, and bounds their number."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from rich.console import Console

from cli.errors import CommandError
from cli.spans import store
from cli.spans.receiver import receiving
from cli.spans.span import SpanEvent, Trace
from cli.spans.store import SpanStore
from cli.spans.waterfall import document, summary, waterfall
from tests.cli.tracing import MS, TRACE, span

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from opentelemetry.trace import Tracer
    from opentelemetry.util.types import AttributeValue


ATTRIBUTES: dict[str, AttributeValue] = {"n": 1, "ratio": 0.5, "tags": ["a", "b"], "ok": True}
EVENT_NS = 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


@pytest.fixture
def spans(path: Path) -> Iterator[SpanStore]:
    with SpanStore(path) as spans:
        yield spans


def record(tracer: Tracer) -> None:
    with (
        tracer.start_as_current_span("pay", kind=SpanKind.SERVER),
        tracer.start_as_current_span("sign", attributes=ATTRIBUTES) as child,
    ):
        child.add_event("retry", ATTRIBUTES, EVENT_NS)
        child.set_status(StatusCode.ERROR, "no key")


def text(trace: Trace) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(waterfall(trace))
    return capture.get()


def test_added_spans_are_found_by_their_trace(spans: SpanStore, path: Path) -> None:
    spans.add([span("a"), span("b", "a", service="web5"), span("x", trace_id="f" * 32)])

    trace = store.load(path, TRACE)

    assert trace.spans == (span("a"), span("b", "a", service="web5"))
    assert trace.services == ["orchestrator", "web5"]


def test_span_that_is_sent_again_replaces_the_old_one(spans: SpanStore, path: Path) -> None:
    spans.add([span("a", end=1)])

    spans.add([span("a", end=2)])

    assert store.load(path, TRACE).spans == (span("a", end=2),)
    assert [line.spans for line in store.newest(path, limit=9)] == [1]


def test_newest_trace_is_listed_first(spans: SpanStore, path: Path) -> None:
    spans.add([span("a", trace_id="a" * 32, start=1), span("b", trace_id="b" * 32, start=2)])

    assert [line.trace_id[0] for line in store.newest(path, limit=9)] == ["b", "a"]


def test_trace_with_a_failed_span_is_marked(spans: SpanStore, path: Path) -> None:
    spans.add([span("a"), span("b", "a", failed=True)])

    (line,) = store.newest(path, limit=9)

    assert line.failed
    assert line.name == "anya.test.v1.Test/a"


def test_oldest_traces_are_deleted_for_new_ones(path: Path) -> None:
    with SpanStore(path, max_spans=4) as spans:
        for start, trace_id in enumerate("abc"):
            spans.add([span(str(n), trace_id=trace_id * 32, start=start) for n in range(2)])
            spans.add([span(str(n), trace_id=trace_id * 32, start=start) for n in range(2)])

    assert [line.trace_id[0] for line in store.newest(path, limit=9)] == ["c", "b"]
    assert store.load(path, "a" * 32).spans == ()


def test_failed_batch_stores_nothing_and_blocks_nothing(spans: SpanStore, path: Path) -> None:
    unstorable = span("a", message="\ud800")  # half of a surrogate pair: not UTF-8
    with pytest.raises(UnicodeEncodeError):
        spans.add([span("b"), unstorable])

    spans.add([span("c")])

    assert store.load(path, TRACE).spans == (span("c"),)


def test_first_characters_of_an_id_are_enough(spans: SpanStore, path: Path) -> None:
    spans.add([span("a", trace_id="ab" * 16), span("a", trace_id="ac" * 16)])

    assert store.expand(path, "ab") == "ab" * 16
    assert store.expand(path, "AB") == "ab" * 16


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [("a", "TRACE_AMBIGUOUS"), ("b", "TRACE_UNKNOWN"), ("", "TRACE_AMBIGUOUS")],
)
def test_prefix_of_no_single_trace_is_refused(
    spans: SpanStore, path: Path, prefix: str, reason: str
) -> None:
    spans.add([span("a", trace_id="ab" * 16), span("a", trace_id="ac" * 16)])

    with pytest.raises(CommandError) as refusal:
        store.expand(path, prefix)

    assert refusal.value.reason == reason


def test_missing_store_is_reported_as_no_traces(path: Path) -> None:
    with pytest.raises(CommandError) as refusal:
        store.newest(path, limit=9)

    assert refusal.value.reason == "NO_TRACES"


def test_trace_with_one_root_and_every_parent_is_whole() -> None:
    assert Trace.of(TRACE, [span("a"), span("b", "a"), span("c", "b")]).is_whole


def test_span_without_its_parent_is_an_orphan() -> None:
    trace = Trace.of(TRACE, [span("a"), span("c", "b")])

    assert [orphan.span_id for orphan in trace.orphans] == ["c"]
    assert not trace.is_whole


def test_client_span_without_a_server_span_is_unanswered() -> None:
    call, answer = span("b", "a")._replace(kind="CLIENT"), span("c", "b")

    assert Trace.of(TRACE, [span("a"), call]).unanswered == [call]
    assert Trace.of(TRACE, [span("a"), call, answer]).unanswered == []


def test_trace_with_two_roots_is_not_whole() -> None:
    assert not Trace.of(TRACE, [span("a"), span("b")]).is_whole


def test_children_follow_their_parent_in_order_of_start() -> None:
    trace = Trace.of(
        TRACE,
        [span("late", "a", start=5), span("early", "a", start=2), span("leaf", "early"), span("a")],
    )

    assert [(depth, one.span_id) for depth, one in trace.walk()] == [
        (0, "a"),
        (1, "early"),
        (2, "leaf"),
        (1, "late"),
    ]


def test_cycle_of_parents_ends_the_walk() -> None:
    trace = Trace.of(TRACE, [span("a", "b"), span("b", "a"), span("root")])

    assert [one.span_id for _, one in trace.walk()] == ["root"]


def test_waterfall_shows_depth_time_and_failure() -> None:
    trace = Trace.of(
        TRACE,
        [
            span("a", end=100),
            span("b", "a", service="ml", start=50, end=100, failed=True, message="no model"),
        ],
    )

    first, second = text(trace).splitlines()[1:]

    assert "Test/a" in first
    assert "100.0" in first
    assert "  Test/b ✗ no model" in second
    assert second.rstrip().endswith("█")
    assert first.index("█") < second.index("█")


def test_waterfall_marks_orphans() -> None:
    trace = Trace.of(TRACE, [span("a"), span("c", "b")])

    assert "Test/c (orphan)" in text(trace)
    assert "1 orphan" in summary(trace)


def test_document_is_json() -> None:
    shown = document(
        Trace.of(TRACE, [span("a", start=5, end=15), span("b", "a", start=10, end=15)])
    )

    assert json.loads(json.dumps(shown)) == shown
    assert shown["seconds"] == pytest.approx(0.010)
    assert shown["spans"][1]["offset_seconds"] == pytest.approx(0.005)
    assert shown["spans"][1]["depth"] == 1


async def test_receiver_stores_spans_of_an_otlp_exporter(path: Path) -> None:
    async with receiving(path) as url:
        provider = TracerProvider(resource=Resource({"service.name": "bitcoin"}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(url, insecure=True)))
        tracer = provider.get_tracer("tests")
        await asyncio.to_thread(record, tracer)  # the exporter blocks until the receiver answers
        provider.shutdown()

    (line,) = store.newest(path, limit=9)
    parent, child = (one for _, one in store.load(path, line.trace_id).walk())
    assert (parent.service, parent.name, parent.kind) == ("bitcoin", "pay", "SERVER")
    assert (child.name, child.failed, child.message) == ("sign", True, "no key")
    assert child.attributes == ATTRIBUTES
    assert child.events == (SpanEvent(EVENT_NS, "retry", ATTRIBUTES),)


def test_store_of_another_version_is_begun_again(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE span (trace_id TEXT)")

    with pytest.raises(CommandError, match="another version"):
        store.newest(path, limit=9)
    with SpanStore(path) as spans:
        spans.add([span("a")])

    assert store.load(path, TRACE).spans == (span("a"),)


def test_waterfall_shows_events_below_their_span() -> None:
    event = SpanEvent(50 * MS, "retry", {"error.type": "[red]UNAVAILABLE"})
    trace = Trace.of(TRACE, [span("a", end=100)._replace(events=[event])])

    row = text(trace).splitlines()[2]

    assert "· retry error.type=[red]UNAVAILABLE" in row
    assert document(trace)["spans"][0]["events"] == [
        {"name": "retry", "offset_seconds": 0.05, "attributes": event.attributes}
    ]


async def test_malformed_span_is_not_stored(path: Path) -> None:
    request = pb.ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="no ids")
    async with receiving(path) as url, grpc.aio.insecure_channel(url.removeprefix("http://")) as to:
        await TraceServiceStub(to).Export(request)  # type: ignore[no-untyped-call]

    assert store.newest(path, limit=9) == []
