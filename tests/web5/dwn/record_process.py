"""A program that stores the same payment records as every other instance and prints their ids."""

from __future__ import annotations

import asyncio
import json
import sys

from formats import jose
from mesh.clock import SystemClock
from mesh.data import idempotency, outbox
from mesh.data.database import open_database
from mesh.data.idempotency import IdempotencyKey
from services.web5.store.dwn import messages as store
from services.web5.store.dwn.node import Dwn, TransactionRecord
from tests.web5.holder import signer

SCHEMA = idempotency.SCHEMA + outbox.SCHEMA + store.SCHEMA
PAYMENTS = 25


def reply(record: TransactionRecord) -> bytes:
    return record.record_id.encode()


async def main(location: str, secret: bytes) -> None:
    service = signer(jose.Ed25519Key.from_secret(secret))
    async with open_database(location, schema=SCHEMA) as database:
        records = Dwn(database, service, SystemClock())
        await records.open()
        stored = await asyncio.gather(
            *(
                records.store_transaction_record(
                    IdempotencyKey("tests", "Store", f"run-{number}/record/1", b"body"),
                    service.did,
                    {"amount": number},
                    reply=reply,
                )
                for number in range(PAYMENTS)
            )
        )
    print(json.dumps([record_id.decode() for record_id in stored]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], bytes.fromhex(sys.argv[2])))
