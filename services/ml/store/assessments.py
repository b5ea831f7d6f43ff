"""The table of assessments, one row for each request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mesh.data import idempotency, outbox

if TYPE_CHECKING:
    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.ml.assessment import Assessment

SCHEMA = """
CREATE TABLE IF NOT EXISTS assessment (
    digest        BLOB NOT NULL,     -- of the payment, 32 bytes
    request_id    TEXT NOT NULL,
    model         TEXT NOT NULL,
    model_version TEXT NOT NULL,
    risk_score    REAL,              -- NULL if there was no score
    decision      INTEGER NOT NULL,  -- services.ml.assessment.RiskDecision
    features      BLOB NOT NULL,     -- anya.mesh.v1.FeatureVector, as attested
    assessed_ms   INTEGER NOT NULL,  -- Unix time by the database's clock
    PRIMARY KEY (digest, request_id)
) STRICT, WITHOUT ROWID;
"""


class AssessmentStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: IdempotencyKey) -> bytes | None:
        """Returns the reply to an earlier attempt of this request, or None if there was none."""

        async def work(tx: Transaction) -> bytes | None:
            return await idempotency.find_reply(tx, key)

        return await self._database.read(work)

    async def record(
        self,
        key: IdempotencyKey,
        assessment: Assessment,
        *,
        digest: bytes,
        model: str,
        model_version: str,
        features: bytes,
        reply: bytes,
    ) -> bytes:
        """Stores the assessment once per ``key``, and returns the first reply."""

        async def effect(tx: Transaction) -> bytes:
            await tx.execute(
                "INSERT INTO assessment VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                digest,
                key.request_id,
                model,
                model_version,
                assessment.risk_score,
                int(assessment.decision),
                features,
                await tx.now_ms(),
            )
            data = {
                "decision": assessment.decision.name.lower(),
                "model": f"{model}/{model_version}",
            }
            await outbox.append(
                tx, type="ml.risk.assessed", key=digest.hex(), data=json.dumps(data).encode()
            )
            return reply

        async def work(tx: Transaction) -> bytes:
            return await idempotency.run_once(tx, key, lambda: effect(tx))

        return await self._database.write(work)
