"""Enforces data classes: no field above the class that a boundary allows crosses it."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from mesh.errors import PermissionDenied, Reason
from mesh.rpc import contracts
from mesh.security.redaction import plan_for
from mesh.security.trust import DataClass

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

    from mesh.rpc.interceptors import ClientCall, ServerCall


@contextmanager
def redact(call: ServerCall) -> Iterator[None]:
    """Clears the fields that the caller may not see from every reply of the call."""
    if call.grant is not None:
        call.outgoing = partial(_cleared, highest=call.grant.max_class)
    yield


@contextmanager
def check(call: ClientCall) -> Iterator[None]:
    """Refuses requests with fields that the target may not see, before they leave the process."""
    rules = call.rules
    if rules.policy is not None:
        highest = rules.policy.current.classes.get((rules.source, rules.target), 0)
        match call.request:
            case Message() as request:
                _refuse(request, highest, rules.target)
            case bytes() as sent:
                _refuse_bytes(call.method, sent, highest, rules.target)
            case requests:
                call.request = _refusing(requests, highest, rules.target)
    yield


def _cleared(reply: Message, *, highest: int) -> Message:
    plan = plan_for(reply.DESCRIPTOR, highest)
    if plan is None:
        return reply
    cleared = type(reply)()  # a copy: the servicer may send the same object to other callers
    cleared.CopyFrom(reply)
    plan.clear(cleared)
    return cleared


def _refuse(request: Message, highest: int, target: str) -> None:
    plan = plan_for(request.DESCRIPTOR, highest)
    path = plan.find(request) if plan is not None else None
    if path is not None:
        crossing = DataClass(highest).name if highest else "nothing"
        raise PermissionDenied(
            f"{request.DESCRIPTOR.name}.{path} may not go to {target}: {crossing} is the highest"
            " class that crosses this boundary",
            reason=Reason.DATA_CLASS_EXCEEDED,
            field=path,
        )


def _refuse_bytes(method: str, sent: bytes, highest: int, target: str) -> None:
    """Refuses a serialized request like ``_refuse``."""
    message_type = contracts.request_type(method)
    if plan_for(message_type, highest) is not None:
        _refuse(GetMessageClass(message_type).FromString(sent), highest, target)


async def _refusing(
    requests: Iterable[Message] | AsyncIterable[Message], highest: int, target: str
) -> AsyncIterator[Message]:
    """Yields the same stream, and raises at the first message that may not be sent."""
    if hasattr(requests, "__aiter__"):
        async for request in requests:
            _refuse(request, highest, target)
            yield request
    else:
        for request in requests:
            _refuse(request, highest, target)
            yield request
