"""Transactions as serialised on the wire: read strictly and in one pass, and written.

The reader takes txid, prevouts and outputs at once; scripts, sequences and witnesses stay in
``raw`` until ``Transaction.inputs`` decodes them.
"""

from __future__ import annotations

from struct import Struct, error
from typing import TYPE_CHECKING, NamedTuple, NewType

from formats.bitcoin.errors import MalformedError
from formats.bitcoin.hashes import Txid, sha256d
from formats.money import MAX_SAT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A prevout as serialised: txid in internal order, then vout in 4 bytes, little-endian.
Outpoint = NewType("Outpoint", bytes)

NULL_PREVOUT = Outpoint(bytes(32) + b"\xff" * 4)
MAX_SEQUENCE = 0xFFFFFFFF
SEQUENCE_NO_REPLACEMENT = 0xFFFFFFFE  # a lower one signals replaceability (BIP 125)
WITNESS_SCALE = 4  # BIP 141

_MIN_INPUT_BYTES = 41
_MIN_OUTPUT_BYTES = 9

_U32 = Struct("<I")
_I32 = Struct("<i")
_I64 = Struct("<q")
_prevout_and_length = Struct("<36sB").unpack_from
_amount_and_length = Struct("<QB").unpack_from
_u32 = _U32.unpack_from
_i32 = _I32.unpack_from
_new = tuple.__new__  # skips the argument handling of a NamedTuple: a third of the time of a block


class Output(NamedTuple):
    amount_sat: int
    script_pubkey: bytes


class Input(NamedTuple):
    prevout: Outpoint
    script_sig: bytes = b""
    sequence: int = MAX_SEQUENCE
    witness: tuple[bytes, ...] = ()


class Transaction(NamedTuple):
    raw: bytes
    txid: Txid
    prevouts: tuple[Outpoint, ...]
    outputs: tuple[Output, ...]
    stripped_size: int  # bytes without the witness

    @property
    def version(self) -> int:
        version: int = _i32(self.raw)[0]
        return version

    @property
    def lock_time(self) -> int:
        lock_time: int = _u32(self.raw, len(self.raw) - 4)[0]
        return lock_time

    @property
    def has_witness(self) -> bool:
        return len(self.raw) != self.stripped_size

    @property
    def wtxid(self) -> bytes:
        """The hash of all bytes, witnesses included (BIP 141), in internal order."""
        return sha256d(self.raw) if self.has_witness else self.txid

    @property
    def weight(self) -> int:
        """Weight units: three times the stripped size plus the size (BIP 141)."""
        return (WITNESS_SCALE - 1) * self.stripped_size + len(self.raw)

    @property
    def vsize(self) -> int:
        """Virtual bytes: weight / 4, rounded up."""
        return -(-self.weight // WITNESS_SCALE)

    @property
    def is_coinbase(self) -> bool:
        return self.prevouts[0] == NULL_PREVOUT and len(self.prevouts) == 1

    @property
    def signals_replacement(self) -> bool:
        """A sequence of the transaction itself signals replaceability (BIP 125)."""
        return any(input.sequence < SEQUENCE_NO_REPLACEMENT for input in self.inputs())

    def inputs(self) -> tuple[Input, ...]:
        """Decodes the inputs in full from ``raw``."""
        return tuple(_decode_inputs(self))


def outpoint(txid: bytes, vout: int) -> Outpoint:
    """Returns the 36 bytes of a prevout; ``txid`` is in internal byte order."""
    return Outpoint(txid + _U32.pack(vout))


def split_outpoint(prevout: Outpoint) -> tuple[Txid, int]:
    return Txid(prevout[:32]), _u32(prevout, 32)[0]


def parse_transaction(raw: bytes) -> Transaction:
    """Returns the transaction that ``raw`` is, to the last byte.

    Raises MalformedError with the offset if ``raw`` is truncated, padded or not canonical, has no
    inputs or no outputs, or an amount above 21 million BTC.
    """
    try:
        transaction, end = read_transaction(raw, 0)
    except (IndexError, error):
        raise MalformedError(
            f"the transaction is truncated: it does not end within its {len(raw)} bytes"
        ) from None
    if end != len(raw):
        raise MalformedError(
            f"{len(raw) - end} bytes follow the transaction, which ends at offset {end}"
        )
    return transaction


def read_transaction(data: bytes, start: int) -> tuple[Transaction, int]:
    """Returns the transaction at ``start``, and the offset after it.

    Raises MalformedError as ``parse_transaction`` does, and IndexError or struct.error if ``data``
    ends within the transaction.
    """
    at = start + 4
    has_witness = data[at] == 0
    if has_witness:
        if data[at + 1] != 1:
            raise MalformedError(f"no inputs, or an unknown flag {data[at + 1]}, at offset {at}")
        at += 2
    inputs_at = at
    prevouts, at = _read_prevouts(data, at)
    outputs, at = _read_outputs(data, at)
    if not has_witness:
        end = at + 4
        if end > len(data):
            raise IndexError(end)
        raw = data[start:end]
        return _new(Transaction, (raw, sha256d(raw), prevouts, outputs, len(raw))), end
    witness_at = at
    at = _skip_witnesses(data, at, len(prevouts))
    end = at + 4
    if end > len(data):
        raise IndexError(end)
    stripped = data[start : start + 4] + data[inputs_at:witness_at] + data[at:end]
    fields = (data[start:end], sha256d(stripped), prevouts, outputs, len(stripped))
    return _new(Transaction, fields), end


def _read_prevouts(data: bytes, at: int) -> tuple[tuple[Outpoint, ...], int]:
    count = data[at]
    at += 1
    if count >= 0xFD:
        count, at = read_compact_size(data, at - 1, unit=_MIN_INPUT_BYTES)
    if not count:
        raise MalformedError(f"no inputs at offset {at - 1}")
    prevouts: list[Outpoint] = []
    append = prevouts.append
    for _ in range(count):
        prevout, length = _prevout_and_length(data, at)
        if length >= 0xFD:
            length, at = read_compact_size(data, at + 36)
            at += length + 4
        else:
            at += 41 + length
        append(prevout)
    return tuple(prevouts), at


def _read_outputs(data: bytes, at: int) -> tuple[tuple[Output, ...], int]:
    count = data[at]
    at += 1
    if count >= 0xFD:
        count, at = read_compact_size(data, at - 1, unit=_MIN_OUTPUT_BYTES)
    if not count:
        raise MalformedError(f"no outputs at offset {at - 1}")
    outputs: list[Output] = []
    append = outputs.append
    for _ in range(count):
        amount_sat, length = _amount_and_length(data, at)
        if amount_sat > MAX_SAT:
            raise MalformedError(f"an amount above 21 million BTC at offset {at}")
        at += 9
        if length >= 0xFD:
            length, at = read_compact_size(data, at - 1)
        end = at + length
        append(_new(Output, (amount_sat, data[at:end])))
        at = end
    return tuple(outputs), at


def _skip_witnesses(data: bytes, at: int, inputs: int) -> int:
    start, items = at, 0
    for _ in range(inputs):
        count, at = read_compact_size(data, at)
        items += count
        for _ in range(count):
            length = data[at]
            at += 1
            if length >= 0xFD:
                length, at = read_compact_size(data, at - 1)
            at += length
    if not items:
        raise MalformedError(f"a witness without content at offset {start}")
    return at


def read_compact_size(data: bytes, at: int, *, unit: int = 1) -> tuple[int, int]:
    """Returns the CompactSize at ``at``, and the offset after it.

    Raises MalformedError if it is not minimal, or announces more items of at least ``unit`` bytes
    than can follow; IndexError if it is truncated.
    """
    first = data[at]
    if first < 0xFD:
        return first, at + 1
    width = 1 << (first - 0xFC)
    end = at + 1 + width
    if end > len(data):
        raise IndexError(end)
    value = int.from_bytes(data[at + 1 : end], "little")
    if value < (0xFD, 0x10000, 0x100000000)[first - 0xFD]:
        raise MalformedError(f"CompactSize {value} is not minimal at offset {at}")
    if value * unit > len(data) - end:
        raise MalformedError(
            f"{value} announced at offset {at}, more than the bytes that follow hold"
        )
    return value, end


def _decode_inputs(transaction: Transaction) -> Iterator[Input]:
    raw = transaction.raw
    at = 6 if transaction.has_witness else 4
    _, at = read_compact_size(raw, at)
    heads = []
    for prevout in transaction.prevouts:
        length, at = read_compact_size(raw, at + 36)
        end = at + length
        heads.append((prevout, raw[at:end], _u32(raw, end)[0]))
        at = end + 4
    if not transaction.has_witness:
        yield from (Input(*head) for head in heads)
        return
    at += len(serialize_outputs(transaction.outputs))
    for head in heads:
        count, at = read_compact_size(raw, at)
        witness = []
        for _ in range(count):
            length, at = read_compact_size(raw, at)
            witness.append(raw[at : at + length])
            at += length
        yield Input(*head, tuple(witness))


def serialize(
    *, version: int, inputs: Sequence[Input], outputs: Sequence[Output], lock_time: int = 0
) -> bytes:
    """Returns the wire form, with marker, flag and witnesses if an input has one (BIP 144)."""
    body = compact_size(len(inputs)) + b"".join(
        input.prevout + sized(input.script_sig) + _U32.pack(input.sequence) for input in inputs
    )
    body += serialize_outputs(outputs)
    if any(input.witness for input in inputs):
        witnesses = b"".join(
            compact_size(len(input.witness)) + b"".join(sized(item) for item in input.witness)
            for input in inputs
        )
        body = b"\x00\x01" + body + witnesses
    return _I32.pack(version) + body + _U32.pack(lock_time)


def serialize_outputs(outputs: Sequence[Output]) -> bytes:
    return compact_size(len(outputs)) + b"".join(
        _I64.pack(output.amount_sat) + sized(output.script_pubkey) for output in outputs
    )


def compact_size(value: int) -> bytes:
    """Returns the shortest CompactSize of a number below 2**64 (protocol documentation)."""
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


def sized(data: bytes) -> bytes:
    """Returns the data after its length as a CompactSize."""
    return compact_size(len(data)) + data
