"""Logs: one line of JSON per record on stderr, with the ids of the current span."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime

from opentelemetry import trace

NOISY = "opentelemetry"  # reports an unavailable collector with every batch
REPEAT_INTERVAL_S = 60.0


def set_up(service: str) -> None:
    """Sends the log of the process to stderr. Called once, by mesh/process.py."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(service))
    handler.addFilter(RateLimitFilter(NOISY))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
            line["span_id"] = trace.format_span_id(span.span_id)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class RateLimitFilter(logging.Filter):
    """Limits each message of the loggers below ``name`` to one per REPEAT_INTERVAL_S."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._emitted: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True  # another logger
        message = record.name, record.msg
        if time.monotonic() - self._emitted.get(message, -REPEAT_INTERVAL_S) < REPEAT_INTERVAL_S:
            return False
        self._emitted[message] = time.monotonic()
        return True
