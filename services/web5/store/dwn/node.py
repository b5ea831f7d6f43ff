"""The decentralized web nodes of the tenants: dispatches each message to its method.

The checks of a message run in this order: parse (400), protocol (400), authentication and
authorization (401). All changes of one message are one transaction.
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

MAX_DATA_BYTES = 3 * 1024 * 1024  # together with a message, this fits a gRPC request


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """A stored record of a payment."""

    tenant: str
    record_id: str
    message_cid: str
    data_cid: str


class Dwn:
    """The nodes of this service's tenants. The service itself is a tenant and signs as such."""

    def __init__(self, database: Database, signer: Signer, clock: Clock) -> None:
        self._database = database
        self._signer = signer
        self._clock = clock
        self._known: set[str] = set()  # tenants; none is ever removed

    @property
    def tenant(self) -> str:
        """The DID whose node stores the records of payments."""
        return self._signer.did

    async def open(self) -> None:
        """Adds the service as a tenant and configures the payment protocol of this version."""
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
        """Stores a record that ``payer`` may read, once per ``key``, and returns the first reply.

        Raises InvalidArgument if ``payer`` is not a DID or the data exceeds 30,000 bytes of JSON,
        and AlreadyExists (REQUEST_ID_REUSED) if ``key`` belongs to another request.
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
        """Processes a message on the node of ``target`` and returns its reply.

        Raises InvalidArgument if the message is not strict JSON (MESSAGE_MALFORMED), or if it or
        its data is too large (MESSAGE_TOO_LARGE), and NotFound (TENANT_NOT_FOUND).
        """
        if not await self._is_tenant(target):
            raise NotFound(
                "target is not a tenant of this node; set it to the DID of a tenant",
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

    async def _dispatch(self, tenant: str, received: Message, data: bytes | None) -> Reply:
        match received.kind:
            case "RecordsWrite":
                return await self._write(tenant, received, data)
            case "RecordsDelete":
                received.authenticate()
                return await self._database.write(
                    lambda tx: delete_method.process(tx, tenant, received)
                )
            case "ProtocolsConfigure":
                protocol.parse(received.descriptor["definition"])
                received.authenticate()
                return await self._database.write(
                    lambda tx: protocols_method.configure(tx, tenant, received)
                )
            case "RecordsRead":
                records_read.check(received)
                _authenticate_if_signed(received)
                return await self._database.read(
                    lambda tx: read_method.process(tx, tenant, received)
                )
            case "RecordsQuery":
                return await self._query(tenant, received)
            case "ProtocolsQuery":
                url = protocols.queried(received)
                _authenticate_if_signed(received)
                only_published = received.author != tenant
                return await self._database.read(
                    lambda tx: protocols_method.query(
                        tx, tenant, url, only_published=only_published
                    )
                )
            case _:
                raise Internal(f"{received.kind} has a schema but no method")

    async def _write(self, tenant: str, received: Message, data: bytes | None) -> Reply:
        write = records_write.parse(received)
        try:
            received.authenticate()
        except UnauthorizedError:
            # The profile reports a wrong reference before a wrong signature. This check only reads:
            # a message without a valid signature must not occupy the writer.
            await self._database.read(lambda tx: write_method.check_references(tx, tenant, write))
            raise
        content = None if data is None else RecordData.of(data)
        return await self._database.write(
            lambda tx: write_method.process(tx, tenant, write, content)
        )

    async def _query(self, tenant: str, received: Message) -> Reply:
        query = records_query.parse(received)
        if received.author is not None or query.published is False:
            received.authenticate()
            records_read.check_role(received)
        return await self._database.read(
            lambda tx: query_method.process(tx, tenant, query, received.author)
        )

    async def _is_tenant(self, tenant: str) -> bool:
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


def _authenticate_if_signed(received: Message) -> None:
    if received.signature is not None:
        received.authenticate()


def _expect_accepted(reply: Reply) -> None:
    if reply is not ACCEPTED:
        raise Internal(f"the service's own node refused its message: {reply.detail}")
