"""The store of the bitcoin service, on SQLite or PostgreSQL."""

from mesh.data import idempotency, outbox
from services.bitcoin.store import block_log, budget, chain, payment_row, reservation, wallet

SCHEMA = "".join(
    part.SCHEMA
    for part in (
        idempotency,
        outbox,
        block_log,
        chain,
        wallet,
        payment_row,
        budget,
        reservation,
    )
)
