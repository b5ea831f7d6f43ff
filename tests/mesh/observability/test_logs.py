"""The log: one line of JSON per record, and a rate limit for repeated messages."""

from __future__ import annotations

import json
import logging
import sys

from opentelemetry import trace

from mesh.observability.logs import JsonLines, RateLimitFilter


def record(name: str, message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, arguments, None)


def test_record_is_one_line_with_its_trace() -> None:
    span = trace.NonRecordingSpan(trace.SpanContext(0xABC, 0xDEF, is_remote=False))

    with trace.use_span(span):
        text = JsonLines("bitcoin").format(
            record("mesh.security.audit", "two\nlines of %s", "text")
        )

    assert "\n" not in text
    line = json.loads(text)
    assert line["service"] == "bitcoin"
    assert line["level"] == "warning"
    assert line["message"] == "two\nlines of text"
    assert line["trace_id"] == f"{0xABC:032x}"
    assert line["span_id"] == f"{0xDEF:016x}"


def test_exception_stays_on_the_line() -> None:
    failed = record("mesh.actor", "it failed")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        failed.exc_info = sys.exc_info()

    text = JsonLines("bitcoin").format(failed)

    assert "\n" not in text
    assert "ZeroDivisionError" in json.loads(text)["exception"]


def test_rate_limit_drops_repetitions_of_its_logger_only() -> None:
    limit = RateLimitFilter("opentelemetry")

    passed = [
        limit.filter(record("opentelemetry.sdk", "export failed: %s", "a")),
        limit.filter(record("opentelemetry.sdk", "export failed: %s", "b")),
        limit.filter(record("opentelemetry.sdk", "queue full")),
        limit.filter(record("mesh.security.audit", "export failed: %s", "a")),
        limit.filter(record("mesh.security.audit", "export failed: %s", "a")),
    ]

    assert passed == [True, False, True, True, True]
