"""RecordsWrite: creates or updates a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.web5.dwn import cid, jws, timestamp, unixfs, url, values
from services.web5.dwn.errors import Code, DwnError

if TYPE_CHECKING:
    from datetime import datetime

    from services.web5.dwn.message import Message
    from services.web5.dwn.values import Value
    from services.web5.proof import Signer

MAX_INLINE_BYTES = 30_000  # larger data is not part of a query's reply

MUTABLE = frozenset(
    {
        "dataCid",
        "dataSize",
        "dataFormat",
        "datePublished",
        "published",
        "messageTimestamp",
        "tags",
    }
)


@dataclass(frozen=True, slots=True)
class RecordData:
    """The data of a message, with the CID computed from it."""

    content: bytes
    cid: str

    @classmethod
    def of(cls, content: bytes) -> RecordData:
        return cls(content, unixfs.data_cid(content))


@dataclass(frozen=True, slots=True)
class RecordsWrite:
    """A write whose ids and dates agree with its descriptor and with the signed payload."""

    message: Message
    author: str
    is_initial: bool

    @property
    def descriptor(self) -> dict[str, Value]:
        return self.message.descriptor

    @property
    def record_id(self) -> str:
        record_id: str = self.message.value["recordId"]
        return record_id

    @property
    def context_id(self) -> str | None:
        return self.message.value.get("contextId")

    @property
    def protocol(self) -> str | None:
        return self.descriptor.get("protocol")

    @property
    def protocol_path(self) -> str:
        """The record's path in the structure of its protocol; empty without a protocol."""
        path: str = self.descriptor.get("protocolPath", "")
        return path

    @property
    def parent_id(self) -> str | None:
        return self.descriptor.get("parentId")

    @property
    def recipient(self) -> str | None:
        return self.descriptor.get("recipient")

    @property
    def data_cid(self) -> str:
        data_cid: str = self.descriptor["dataCid"]
        return data_cid

    @property
    def data_size(self) -> int:
        """Bytes."""
        size: int = self.descriptor["dataSize"]
        return size

    @property
    def published(self) -> bool:
        return bool(self.descriptor.get("published", False))

    def check_immutable(self, initial: RecordsWrite) -> None:
        """Raises DwnError if this update changes an immutable property of the initial write."""
        ours, theirs = self.descriptor, initial.descriptor
        for name in sorted(ours.keys() | theirs.keys()):
            if name not in MUTABLE and ours.get(name) != theirs.get(name):
                raise DwnError(
                    Code.RECORDS_WRITE_IMMUTABLE_CHANGED,
                    f"{name} is an immutable property: cannot change"
                    f" '{theirs.get(name)}' to '{ours.get(name)}'",
                )
        if self.context_id != initial.context_id:
            raise DwnError(
                Code.RECORDS_WRITE_IMMUTABLE_CHANGED, "contextId is an immutable property"
            )

    def check_data(self, data_cid: str, size: int) -> None:
        """Raises DwnError if CID or size (bytes) differ from the descriptor."""
        if data_cid != self.data_cid:
            raise DwnError(
                Code.RECORDS_WRITE_DATA_CID_MISMATCH,
                f"actual data CID {data_cid} does not match dataCid in descriptor: {self.data_cid}",
            )
        if size != self.data_size:
            raise DwnError(
                Code.RECORDS_WRITE_DATA_SIZE_MISMATCH,
                f"actual data size {size} bytes does not match dataSize in descriptor:"
                f" {self.data_size}",
            )


def entry_id(descriptor: dict[str, Value], author: str) -> str:
    """Returns the entry id of a write; it is the record id if the write is the initial one."""
    return cid.of_value(descriptor | {"author": author})


def of(checked: Message) -> RecordsWrite:
    """Returns the write of a stored message."""
    author = checked.author or ""
    record_id = checked.value["recordId"]
    return RecordsWrite(checked, author, entry_id(checked.descriptor, author) == record_id)


def parse(checked: Message) -> RecordsWrite:
    """Returns the write of a message. Raises DwnError if its ids, dates or URLs are not valid."""
    write = of(checked)
    if checked.signature is None:  # the schema requires one
        raise DwnError(Code.AUTHENTICATE_JWS_MISSING, "Missing JWS.")
    descriptor, signed = checked.descriptor, checked.signature.payload
    if write.is_initial and checked.timestamp != descriptor["dateCreated"]:
        raise DwnError(
            Code.RECORDS_WRITE_DATE_CREATED_MISMATCH,
            f"messageTimestamp {checked.timestamp} must match dateCreated"
            f" {descriptor['dateCreated']} for the initial write",
        )
    is_root = write.protocol is not None and write.parent_id is None
    if is_root and write.context_id != write.record_id:
        raise DwnError(
            Code.RECORDS_WRITE_CONTEXT_ID_MISMATCH,
            f"contextId in message: {write.context_id} does not match deterministic contextId:"
            f" {write.record_id}",
        )
    if write.record_id != signed["recordId"]:
        raise DwnError(
            Code.RECORDS_WRITE_RECORD_ID_UNAUTHORIZED,
            f"recordId in message {write.record_id} does not match recordId in authorization:"
            f" {signed['recordId']}",
        )
    if write.context_id != signed.get("contextId"):
        raise DwnError(
            Code.RECORDS_WRITE_CONTEXT_ID_UNSIGNED,
            f"contextId in message {write.context_id} does not match contextId in authorization:"
            f" {signed.get('contextId')}",
        )
    _check_names(descriptor)
    return write


def _check_names(descriptor: dict[str, Value]) -> None:
    if "protocol" in descriptor:
        url.check_protocol(descriptor["protocol"])
    if "schema" in descriptor:
        url.check_schema(descriptor["schema"])
    timestamp.read(descriptor["dateCreated"])
    if "datePublished" in descriptor:
        timestamp.read(descriptor["datePublished"])


def create(
    data: bytes,
    signer: Signer,
    now: datetime,
    *,
    data_format: str,
    parent_context: str | None = None,
    **properties: Value,
) -> bytes:
    """Returns the signed JSON of an initial write.

    ``parent_context`` is the context id of the parent record, and ``properties`` are further
    members of the descriptor.
    """
    moment = timestamp.write(now)
    descriptor = _descriptor(data, data_format, created=moment, moment=moment) | properties
    if parent_context is not None:
        descriptor["parentId"] = parent_context.rpartition("/")[2]
    record_id = entry_id(descriptor, signer.did)
    if "protocol" not in descriptor:
        return _signed(record_id, None, descriptor, signer)
    context_id = record_id if parent_context is None else f"{parent_context}/{record_id}"
    return _signed(record_id, context_id, descriptor, signer)


def update(raw: bytes, data: bytes, signer: Signer, now: datetime, **changes: Value) -> bytes:
    """Returns the signed JSON of a write that gives the record of the write ``raw`` new data.

    Tags are dropped unless ``changes`` has them; a change to None drops the property.
    """
    before = values.parse(raw)
    old = before["descriptor"]
    kept = {name: value for name, value in old.items() if name != "tags"}
    new = _descriptor(
        data, old["dataFormat"], created=old["dateCreated"], moment=timestamp.write(now)
    )
    changed = kept | new | changes
    descriptor = {name: value for name, value in changed.items() if value is not None}
    return _signed(before["recordId"], before.get("contextId"), descriptor, signer)


def _descriptor(data: bytes, data_format: str, *, created: str, moment: str) -> dict[str, Value]:
    return {
        "interface": "Records",
        "method": "Write",
        "dataCid": unixfs.data_cid(data),
        "dataSize": len(data),
        "dateCreated": created,
        "messageTimestamp": moment,
        "dataFormat": data_format,
    }


def _signed(
    record_id: str, context_id: str | None, descriptor: dict[str, Value], signer: Signer
) -> bytes:
    context = {} if context_id is None else {"contextId": context_id}
    payload = {"recordId": record_id, "descriptorCid": cid.of_value(descriptor)} | context
    return values.dump(
        {
            "recordId": record_id,
            **context,
            "descriptor": descriptor,
            "authorization": {"signature": jws.sign(payload, signer)},
        }
    )
