"""The decentralized web nodes kept here: a signed message in, its verdict out.

A message goes from top to bottom: parse (400), fit its protocol (400), authenticate and authorize
(401), store, reply. All that it changes is one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mesh.data import idempotency
from mesh.errors import Internal, InvalidArgument, NotFound, Reason
from services.web5 import did, payment_record
from services.web5.dwn import (
    message,
    protocol,
    protocols,
    records_query,
    records_read,
    records_write,
    values,
)
from services.web5.dwn.errors import DwnError, UnauthorizedError
from services.web5.dwn.records_write import RecordData
from services.web5.dwn.reply import ACCEPTED, Reply, error_reply
from services.web5.dwn.schemas import MAX_DID_CHARS
from services.web5.store.dwn import messages as store
from services.web5.store.dwn.methods import protocols as protocols_method
from services.web5.store.dwn.methods import records_delete as delete_method
from services.web5.store.dwn.methods import records_query as query_method
from services.web5.store.dwn.methods import records_read as read_method
from services.web5.store.dwn.methods import records_write as write_method

if TYPE_CHECKING:
    from collections.abc import Callable

    from mesh.clock import Clock
    from mesh.data.database import Database, Transaction
    from mesh.data.idempotency import IdempotencyKey
    from services.web5.dwn.message import Message
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer

MAX_DATA_BYTES = 3 * 1024 * 1024  # bytes: with its message it fits a gRPC request


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """A stored record of a payment."""

    tenant: str
    record_id: str
    message_cid: str
    data_cid: str


class Dwn:
    """The nodes of this service's tenants. The service itself is one of them, and signs as it."""

    def __init__(self, database: Database, signer: Signer, clock: Clock) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._known: set[str] = set()  # tenants, which never leave

    @property
    def tenant(self) -> str:
        """The DID whose node keeps the records of payments."""
        return self._signer.did

    async def open(self) -> None:
        """Make the service a tenant, with the payment protocol as this version defines it."""
        raw = protocols.configure(payment_record.DEFINITION, self._signer, self._now())
        configure = message.parse(raw, self._now())

        async def work(tx: Transaction) -> None:
            await store.add_tenant(tx, self.tenant)
            for kept in await store.configure_messages(
                tx, self.tenant, url=payment_record.PROTOCOL
            ):
                if kept.descriptor["definition"] == payment_record.DEFINITION:
                    return
            _expect_accepted(await protocols_method.configure(tx, self.tenant, configure))

        await self._database.write(work)

    async def store_transaction_record(
        self,
        key: IdempotencyKey,
        payer: str,
        transaction: Value,
        *,
        payment_id: str = "",
        reply: Callable[[TransactionRecord], bytes],
    ) -> bytes:
        """Record a payment once per ``key``, readable by ``payer``, and return the first reply.

        InvalidArgument for what is not a DID, or data above 30,000 bytes of JSON; AlreadyExists
        (REQUEST_ID_REUSED).
        """
        data = RecordData.of(payment_record.document(transaction))
        raw = records_write.create(
            data.content,
            self._signer,
            self._now(),
            data_format=payment_record.DATA_FORMAT,
            protocol=payment_record.PROTOCOL,
            protocolPath=payment_record.PATH,
            schema=payment_record.SCHEMA,
            recipient=_parse_payer(payer),
            tags=payment_record.tags(key.request_id, payment_id),
        )
        write = records_write.parse(message.parse(raw, self._now()))

        async def effect(tx: Transaction) -> bytes:
            _expect_accepted(await write_method.process(tx, self.tenant, write, data))
            return reply(
                TransactionRecord(self.tenant, write.record_id, write.message.cid, write.data_cid)
            )

        return await self._database.write(
            lambda tx: idempotency.run_once(tx, key, lambda: effect(tx))
        )

    async def process_message(self, target: str, raw: bytes, data: bytes | None = None) -> Reply:
        """The verdict of ``target``'s node about a message.

        InvalidArgument if not every reader understands it alike (MESSAGE_MALFORMED), or it or its
        data is too large (MESSAGE_TOO_LARGE); NotFound (TENANT_NOT_FOUND).
        """
        if not await self._keeps(target):
            raise NotFound(
                "this node keeps no such tenant; give the DID whose node you mean as target",
                reason=Reason.TENANT_NOT_FOUND,
                field="target",
            )
        _check_sizes(raw, data)
        try:
            return await self._dispatch(target, message.parse(raw, self._now()), data)
        except values.MalformedError as error:
            raise InvalidArgument(
                f"message: {error}", reason=Reason.MESSAGE_MALFORMED, field="message"
            ) from None
        except DwnError as error:
            return error_reply(error)

    async def _dispatch(self, tenant: str, asked: Message, data: bytes | None) -> Reply:
        match asked.kind:
            case "RecordsWrite":
                return await self._write(tenant, asked, data)
            case "RecordsDelete":
                asked.authenticate()
                return await self._database.write(
                    lambda tx: delete_method.process(tx, tenant, asked)
                )
            case "ProtocolsConfigure":
                protocol.parse(asked.descriptor["definition"])
                asked.authenticate()
                return await self._database.write(
                    lambda tx: protocols_method.configure(tx, tenant, asked)
                )
            case "RecordsRead":
                records_read.check(asked)
                _authenticate_if_signed(asked)
                return await self._database.read(lambda tx: read_method.process(tx, tenant, asked))
            case "RecordsQuery":
                return await self._query(tenant, asked)
            case "ProtocolsQuery":
                url = protocols.queried(asked)
                _authenticate_if_signed(asked)
                only_published = asked.author != tenant
                return await self._database.read(
                    lambda tx: protocols_method.query(
                        tx, tenant, url, only_published=only_published
                    )
                )
            case _:
                raise Internal(f"{asked.kind} passed its schema but has no place here")

    async def _write(self, tenant: str, asked: Message, data: bytes | None) -> Reply:
        write = records_write.parse(asked)
        try:
            asked.authenticate()
        except UnauthorizedError:
            # A wrong reference is answered before a wrong signature; only reading, though: what
            # nobody signed does not get as far as the writer.
            await self._database.read(lambda tx: write_method.check_references(tx, tenant, write))
            raise
        content = None if data is None else RecordData.of(data)
        return await self._database.write(
            lambda tx: write_method.process(tx, tenant, write, content)
        )

    async def _query(self, tenant: str, asked: Message) -> Reply:
        query = records_query.parse(asked)
        if asked.author is not None or query.published is False:
            asked.authenticate()
            records_read.check_role(asked)
        return await self._database.read(
            lambda tx: query_method.process(tx, tenant, query, asked.author)
        )

    async def _keeps(self, tenant: str) -> bool:
        if tenant not in self._known and await self._database.read(
            lambda tx: store.has_tenant(tx, tenant)
        ):
            self._known.add(tenant)
        return tenant in self._known

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.wall(), UTC)


def _parse_payer(text: str) -> str:
    if len(text) > MAX_DID_CHARS:
        raise InvalidArgument(
            f"did must be at most {MAX_DID_CHARS} characters",
            reason=Reason.DID_INVALID,
            field="did",
        )
    return did.parse(text)


def _check_sizes(raw: bytes, data: bytes | None) -> None:
    for name, given, most in (
        ("message", raw, message.MAX_MESSAGE_BYTES),
        ("data", data, MAX_DATA_BYTES),
    ):
        if given is not None and len(given) > most:
            raise InvalidArgument(
                f"{name} must be at most {most} bytes, not {len(given)}",
                reason=Reason.MESSAGE_TOO_LARGE,
                field=name,
            )


def _authenticate_if_signed(asked: Message) -> None:
    if asked.signature is not None:
        asked.authenticate()


def _expect_accepted(reply: Reply) -> None:
    if reply is not ACCEPTED:
        raise Internal(f"the service's own node refused its message: {reply.detail}")
