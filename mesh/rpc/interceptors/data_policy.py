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

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ClientCall, ClientRules, ServerCall
    from mesh.security.trust import ActivePolicy


@contextmanager
def redact(call: ServerCall) -> Iterator[None]:
    """Clears the fields that the caller may not see from every reply of the call."""
    call.outgoing = partial(_cleared_by_grant, call.serving)
    yield


def _cleared_by_grant(serving: ServingCall, reply: Message) -> Message:
    """Returns the reply as the grant shows it now: a reload may change the grant of a stream."""
    if serving.grant is None:
        raise PermissionError("the call is not authorized")
    return cleared(reply, highest=serving.grant.max_class)


def cleared(reply: Message, *, highest: int) -> Message:
    """Returns the reply without the fields above the class ``highest``; itself if it has none."""
    plan = plan_for(reply.DESCRIPTOR, highest)
    if plan is None:
        return reply
    copied = type(reply)()  # the servicer may send the same object to other callers
    copied.CopyFrom(reply)
    plan.clear(copied)
    return copied


@contextmanager
def check(call: ClientCall) -> Iterator[None]:
    """Refuses requests with fields that the target may not see, before they leave the process."""
    if isinstance(call.request, Message | bytes):
        check_request(call.method, call.request, call.rules)
    elif call.rules.policy is not None:
        highest = _highest(call.rules, call.rules.policy)
        call.request = _refusing(call.request, highest, call.rules.target)
    yield


def check_request(method: str, request: Message | bytes, rules: ClientRules) -> None:
    """Raises PermissionDenied if a request, maybe serialized, has fields the target may not see."""
    if rules.policy is None:
        return
    highest = _highest(rules, rules.policy)
    if isinstance(request, bytes):
        message_type = contracts.request_type(method)
        if plan_for(message_type, highest) is not None:
            _refuse(GetMessageClass(message_type).FromString(request), highest, rules.target)
    else:
        _refuse(request, highest, rules.target)


def _highest(rules: ClientRules, policy: ActivePolicy) -> int:
    """Returns the highest class that crosses the boundary; 0, below all, without a boundary."""
    return policy.current.classes.get((rules.source, rules.target), 0)


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
