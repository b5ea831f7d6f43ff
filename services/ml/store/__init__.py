"""The tables of the ml service."""

from __future__ import annotations

from mesh.data import idempotency, outbox
from services.ml.store import assessments

SCHEMA = idempotency.SCHEMA + outbox.SCHEMA + assessments.SCHEMA
