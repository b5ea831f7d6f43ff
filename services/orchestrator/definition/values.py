"""The one mapping between messages and JSON, as workflows, events and users see it.

Fields have their proto names, or their ``workflow_name``; enums are lower-case words without the
prefix; 64-bit integers are integers; 32 bytes are a hash in display order (reversed hex), other
bytes hex as they stand; times are RFC 3339, durations seconds such as ``1.5s``; free objects are
objects; what is absent is null. What only the engine may touch (request_id, context, attestations)
is left out. What one message gives another takes back unchanged.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.errors import InvalidArgument
from services.orchestrator.definition.types import (
    DURATION,
    STRUCT,
    TIMESTAMP,
    enum_words,
    fields,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from services.orchestrator.definition.source import Pointer

HASH_SIZE_BYTES = 32
MAX_GIVEN_DEPTH = 24  # levels of an object that a caller sends: steps may nest it deeper
MAX_EXACT = 2**53  # integers up to here are exact in a Struct, whose numbers are doubles

_DIGITS = "[0-9]{2}"
_CLOCK = rf"{_DIGITS}:{_DIGITS}"
_OFFSET = "[+-]([01][0-9]|2[0-3]):[0-5][0-9]"
TIME = rf"[0-9]{{4}}-{_DIGITS}-{_DIGITS}T{_CLOCK}:{_DIGITS}(\.[0-9]{{1,9}})?(Z|{_OFFSET})"
_TEXTS = {
    Timestamp: (re.compile(TIME), "an RFC 3339 time"),
    Duration: (re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s"), "seconds such as 1.5s"),
}


class MismatchError(ValueError):
    """A value does not fit its field. ``pointer`` is the place inside the value."""

    def __init__(self, pointer: Pointer, expected: str) -> None:
        where = f"{'.'.join(map(str, pointer))} " if pointer else ""
        super().__init__(f"{where}must be {expected}")
        self.pointer = pointer
        self.expected = expected


def to_json(message: Message) -> dict[str, Any]:
    """Returns the message as a JSON object."""
    found: dict[str, Any] = {}
    for name, field, optional, read in _readers(message.DESCRIPTOR):
        if optional and not message.HasField(field):
            found[name] = None
        else:
            value = getattr(message, field)
            found[name] = read(value) if read is not None else value
    return found


def fill(message: Message, value: Any, pointer: Pointer = ()) -> None:
    """Writes a JSON object into a message. Raises MismatchError if a member does not fit."""
    if not isinstance(value, dict):
        raise MismatchError(pointer, "an object")
    known = _writers(message.DESCRIPTOR)
    for name, item in value.items():
        if name not in known:
            raise MismatchError(
                (*pointer, name), f"left out: {message.DESCRIPTOR.name} has no such field"
            )
        known[name](message, item, (*pointer, name))


def from_struct(struct: Struct) -> dict[str, Any]:
    """Returns a free object as JSON; whole numbers are integers."""
    return {name: _from_value(value) for name, value in struct.fields.items()}


def from_given(struct: Struct, field: str) -> dict[str, Any]:
    """Returns the free object in a field of a request as JSON.

    Raises InvalidArgument if a number is NaN or infinite, or if the object is nested too deep.
    """
    try:
        given = from_struct(struct)
    except MismatchError as error:
        raise InvalidArgument(f"{field}: {error}", field=field) from None
    if depth(given) > MAX_GIVEN_DEPTH:
        message = f"{field} must be nested at most {MAX_GIVEN_DEPTH} levels deep"
        raise InvalidArgument(message, field=field)
    return given


def depth(value: Any) -> int:
    """Returns how deep objects and lists are nested; 0 for a scalar."""
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
        case _:
            return 0


def fill_struct(struct: Struct, value: dict[str, Any], pointer: Pointer = ()) -> None:
    """Writes a JSON object into a free object. Raises MismatchError if it is not JSON."""
    for name, item in value.items():
        _fill_value(struct.fields[name], item, (*pointer, name))


_MESSAGES: dict[str, Callable[[Any], Any]] = {
    STRUCT: from_struct,
    TIMESTAMP: Timestamp.ToJsonString,
    DURATION: Duration.ToJsonString,
}


def format_time(time: datetime) -> str:
    """Returns a time as RFC 3339 in UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _FieldReader(NamedTuple):
    name: str  # of the member
    field: str
    optional: bool  # null if the field is absent
    read: Callable[[Any], Any] | None  # None: the value is JSON already


@lru_cache(maxsize=1024)
def _readers(message: Descriptor) -> tuple[_FieldReader, ...]:
    """Returns what reads each member from a message of this type."""
    return tuple(
        _FieldReader(name, field.name, not field.is_repeated and field.has_presence, _reader(field))
        for name, field in fields(message).items()
    )


def _reader(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    read = _item_reader(field)
    if not field.is_repeated:
        return read
    return list if read is None else lambda items: [read(item) for item in items]


def _item_reader(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    if field.message_type is not None:
        read: Callable[[Any], Any] = _MESSAGES.get(field.message_type.full_name, to_json)
        return read
    if field.enum_type is not None:
        words = {number: word for word, number in enum_words(field).items()}
        return lambda number: words.get(number, number)
    if _is_bytes(field):
        return lambda raw: (raw[::-1] if len(raw) == HASH_SIZE_BYTES else raw).hex()
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return partial(_finite, field.name)
    return None


def _finite(name: str, number: float) -> float:
    if not math.isfinite(number):
        raise MismatchError((name,), "a finite number")
    return number


@lru_cache(maxsize=1024)
def _writers(message: Descriptor) -> dict[str, Callable[[Message, Any, Pointer], None]]:
    """Returns what writes each member into a message of this type."""
    return {name: _writer(field) for name, field in fields(message).items()}


def _writer(field: FieldDescriptor) -> Callable[[Message, Any, Pointer], None]:
    if field.is_repeated:
        return partial(_write_items, field)
    if field.message_type is not None:
        return partial(_write_inner, field.name)
    name, optional, parse = field.name, field.has_presence, scalar_parser(field)

    def write(message: Message, value: Any, pointer: Pointer) -> None:
        if value is None and optional:
            message.ClearField(name)
        else:
            setattr(message, name, parse(value, pointer))

    return write


def _write_inner(name: str, message: Message, value: Any, pointer: Pointer) -> None:
    if value is None:
        message.ClearField(name)
        return
    target = getattr(message, name)
    target.SetInParent()
    write_message(target, value, pointer)


def _write_items(field: FieldDescriptor, message: Message, value: Any, pointer: Pointer) -> None:
    if not isinstance(value, list):
        raise MismatchError(pointer, "a list")
    target = getattr(message, field.name)
    for at, item in enumerate(value):
        if field.message_type is not None:
            write_message(target.add(), item, (*pointer, at))
        else:
            target.append(scalar_parser(field)(item, (*pointer, at)))


def write_message(target: Message, value: Any, pointer: Pointer) -> None:
    """Writes JSON into a message of any type. Raises MismatchError if it does not fit."""
    match target:
        case Struct():
            if not isinstance(value, dict):
                raise MismatchError(pointer, "an object")
            fill_struct(target, value, pointer)
        case Timestamp() | Duration():
            pattern, expected = _TEXTS[type(target)]
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise MismatchError(pointer, expected)
            try:
                target.FromJsonString(value)
            except ValueError:
                raise MismatchError(pointer, expected) from None
        case _:
            fill(target, value, pointer)


@lru_cache(maxsize=4096)
def scalar_parser(field: FieldDescriptor) -> Callable[[Any, Pointer], Any]:
    """Returns a function that parses one value of this field, which is no message."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return _parse_bool
        case FieldDescriptor.CPPTYPE_ENUM:
            return partial(_parse_word, enum_words(field))
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return _parse_number
        case FieldDescriptor.CPPTYPE_STRING:
            return _parse_bytes if _is_bytes(field) else _parse_text
        case type:
            return partial(_parse_integer, *_bounds(type))


def _bounds(cpp_type: int) -> tuple[int, int]:
    """Returns the smallest and the largest integer of a type."""
    wide = cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
    unsigned = cpp_type in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
    bits = 64 if wide else 32
    return (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _parse_bool(value: Any, pointer: Pointer) -> bool:
    if not isinstance(value, bool):
        raise MismatchError(pointer, "true or false")
    return value


def _parse_word(words: dict[str, int], value: Any, pointer: Pointer) -> int:
    if not isinstance(value, str) or value not in words:
        raise MismatchError(pointer, f"one of {', '.join(words)}")
    return words[value]


def _parse_number(value: Any, pointer: Pointer) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MismatchError(pointer, "a number")
    return float(value)


def _parse_integer(low: int, high: int, value: Any, pointer: Pointer) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MismatchError(pointer, "an integer")
    if not low <= value <= high:
        raise MismatchError(pointer, f"from {low} to {high}")
    return value


def _parse_text(value: Any, pointer: Pointer) -> str:
    if not isinstance(value, str):
        raise MismatchError(pointer, "a string")
    return value


def _parse_bytes(value: Any, pointer: Pointer) -> bytes:
    if not isinstance(value, str):
        raise MismatchError(pointer, "hexadecimal digits")
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        raise MismatchError(pointer, "hexadecimal digits") from None
    return raw[::-1] if len(raw) == HASH_SIZE_BYTES else raw


def _is_bytes(field: FieldDescriptor) -> bool:
    return field.type == FieldDescriptor.TYPE_BYTES


def _from_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise MismatchError((), "a finite number")
            return int(number) if number.is_integer() and abs(number) <= MAX_EXACT else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _fill_value(target: Value, value: Any, pointer: Pointer) -> None:
    match value:
        case None:
            target.null_value = NULL_VALUE
        case bool():
            target.bool_value = value
        case int() if abs(value) > MAX_EXACT:
            target.string_value = str(value)  # as ProtoJSON does: a double would round it
        case int() | float():
            target.number_value = value
        case str():
            target.string_value = value
        case list():
            target.list_value.CopyFrom(ListValue())
            for at, item in enumerate(value):
                _fill_value(target.list_value.values.add(), item, (*pointer, at))
        case dict():
            target.struct_value.SetInParent()
            fill_struct(target.struct_value, value, pointer)
        case _:
            raise MismatchError(pointer, "JSON")
