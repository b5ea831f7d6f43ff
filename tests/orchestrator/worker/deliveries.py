"""Messages delivered to a run in one commit with the transition they lead to."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from mesh.data.idempotency import IdempotencyKey
from services.orchestrator.engine.activations import SignalReceived
from services.orchestrator.engine.transition import Transition
from services.orchestrator.store.commits import Envelope
from tests.orchestrator.store.run_stores import POLICY

if TYPE_CHECKING:
    from services.orchestrator.store.run_store import RunStore

CALLER = "spiffe://caller"


def signal_key(request_id: str, body: bytes = b"body") -> IdempotencyKey:
    return IdempotencyKey(CALLER, "SignalRun", request_id, body)


def signal_named(name: str, position: int = 0) -> SignalReceived:
    return SignalReceived(name, {"number": 1}, "", position)


def applied(started: Transition, message: SignalReceived) -> Transition:
    """Returns the transition that the message leads to; the state of ``started`` is unchanged."""
    following = Transition(started.workflow, deepcopy(started.state), POLICY, started.at_us + 1, 0)
    following.apply(message)
    return following


async def deliver(
    runs: RunStore, started: Transition, message: SignalReceived, sender: IdempotencyKey
) -> bool:
    transition = applied(started, message)
    return await runs.deliver(
        transition.state, 0, transition.records, Envelope(message, sender, b"reply")
    )
