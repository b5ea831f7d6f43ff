"""What a run listens to: the events that its steps wait for."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from services.orchestrator.engine.model import RunState

ANY = ""  # in place of a subject: no event has this one


@dataclass(frozen=True, slots=True)
class Subscription:
    wanted: Mapping[str, Collection[str]]  # subjects by type, ANY among them for all of its events
    since: int  # position in the store's events behind which it wants them

    def wants(self, type: str, subject: str) -> bool:
        subjects = self.wanted.get(type, ())
        return subject in subjects or ANY in subjects


def subscription(state: RunState, heard: int = 0) -> Subscription | None:
    """None if it listens to nothing. ``heard``: position up to which it has looked already."""
    steps = [step for step in state.in_flight if step.input.get("events")]
    if not steps:
        return None
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for step in steps:
        for type in step.input["events"]:
            wanted[type].add(step.input["correlation"] or ANY)
    return Subscription(wanted, max(heard, min(step.subscribed_from for step in steps)))
