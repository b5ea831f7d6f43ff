"""Binds the idempotency key of a mutation to its call; the store keeps it with the reply."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from mesh import failpoint
from mesh.data.idempotency import IdempotencyKey
from mesh.errors import InvalidArgument, Reason
from mesh.rpc import contracts
from mesh.rpc.call import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ServerCall

MAX_REQUEST_ID_CHARS = 128

# Between the effect of a call and its reply; takes the method.
reach_reply = partial(failpoint.reach, "idempotency.before_reply")


@contextmanager
def bind(call: ServerCall) -> Iterator[None]:
    """Binds the key of a request that has a request_id; other requests pass unchanged."""
    if call.request is not None:
        bind_key(call.serving, call.request)
    yield
    reach_reply(call.serving.method)


def bind_key(serving: ServingCall, request: Message) -> None:
    """Binds the key of a request that has a request_id. Raises InvalidArgument if it is invalid.

    The key is made before the servicer runs, which may change its request: the key is of what the
    caller sent.
    """
    if contracts.has_request_id(request.DESCRIPTOR):
        serving.request_key = _key(serving, request)


def current() -> IdempotencyKey:
    """Returns the key of the mutation being served. Raises LookupError outside of one."""
    key = serving().request_key
    if key is None:
        raise LookupError("the call being served has no request_id")
    return key


def _key(serving: ServingCall, request: Message) -> IdempotencyKey:
    request_id: str = getattr(request, "request_id")  # noqa: B009  (no static type has the field)
    if not 1 <= len(request_id) <= MAX_REQUEST_ID_CHARS or not request_id.isprintable():
        raise InvalidArgument(
            f"request_id must be 1 to {MAX_REQUEST_ID_CHARS} printable characters",
            reason=Reason.REQUEST_ID_INVALID,
            field="request_id",
        )
    asked = _without(request, contracts.per_attempt(request.DESCRIPTOR))
    body = hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()
    return IdempotencyKey(serving.caller, serving.method, request_id, body)


def _without(request: Message, fields: Sequence[FieldDescriptor]) -> Message:
    if not any(_is_given(request, field) for field in fields):
        return request
    copied = type(request)()
    copied.CopyFrom(request)
    for field in fields:
        copied.ClearField(field.name)
    return copied


def _is_given(request: Message, field: FieldDescriptor) -> bool:
    if field.has_presence:
        return request.HasField(field.name)
    return bool(getattr(request, field.name))
