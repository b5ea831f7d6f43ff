"""Logs: one line of JSON per record on stderr, with the trace that it belongs to."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime

from opentelemetry import trace

NOISY = "opentelemetry"  # a collector that is down would be reported with every batch
REPEAT_INTERVAL_S = 60.0  # seconds


def set_up(service: str) -> None:
    """Send the process's log to stderr. Called once, by whoever owns the process."""
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
    """Lets the loggers below ``name`` say each thing once in a while."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._said: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):
            return True  # not of the loggers meant
        what = record.name, record.msg
        if time.monotonic() - self._said.get(what, -REPEAT_INTERVAL_S) < REPEAT_INTERVAL_S:
            return False
        self._said[what] = time.monotonic()
        return True
