"""What may be sent to a run: a signal that some step can wait for, or a cancel."""

from __future__ import annotations

import json
from typing import Any

from mesh.errors import InvalidArgument
from services.orchestrator.definition.shape import is_id, not_an_id
from services.orchestrator.engine.activations import CancelRequested, SignalReceived

MAX_SIGNAL = 64 * 1024  # bytes of JSON
MAX_CORRELATION = 200  # characters
MAX_REASON = 200


def signal(name: str, payload: dict[str, Any], correlation: str) -> SignalReceived:
    """InvalidArgument naming the field that is out of bounds."""
    if not is_id(name):
        raise InvalidArgument(f"signal {not_an_id(name[:100])}", field="signal")
    if len(json.dumps(payload).encode()) > MAX_SIGNAL:
        raise InvalidArgument(f"payload must be at most {MAX_SIGNAL} bytes", field="payload")
    must_be_short("correlation", correlation, MAX_CORRELATION)
    return SignalReceived(name, payload, correlation)


def cancel(reason: str, by: str) -> CancelRequested:
    must_be_short("reason", reason, MAX_REASON)
    return CancelRequested(reason, by)


def must_be_short(field: str, text: str, most: int) -> None:
    if len(text) > most or not (text.isprintable() or not text):
        raise InvalidArgument(f"{field} must be at most {most} printable characters", field=field)
