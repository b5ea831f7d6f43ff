"""Ends a stream when the authority of its caller ends."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from mesh.rpc.interceptors import identity, trust
from mesh.rpc.open_streams import OpenStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mesh.rpc.call import ServingCall
    from mesh.rpc.interceptors import ServerCall, ServerRules


@contextmanager
def hold(call: ServerCall) -> Iterator[None]:
    """Lets ``review`` end the call; raises the MeshError with which it was ended."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a call is served in a task")
    stream = OpenStream(call.serving, task)
    try:
        with call.rules.streams.hold(stream):
            yield
    except asyncio.CancelledError:
        # If the peer cancelled it, too, no status can reach it.
        if stream.ended_by is None or task.uncancel() > 0:
            raise
        raise stream.ended_by from None


def review(rules: ServerRules) -> None:
    """Judges each open stream as a new call is: by its certificate and the policy in force."""
    rules.streams.review(partial(_judge, rules))


def _judge(rules: ServerRules, serving: ServingCall) -> None:
    identity.require_valid(serving, rules)
    serving.grant = trust.grant_of(serving, rules, None)
