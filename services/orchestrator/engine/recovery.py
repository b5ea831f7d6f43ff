"""Counts how often a run took its process down, by what its journal ends with.

A recovery is recorded before the run does anything else. If it is the second one in a row, the end
of the turn after it is recorded too: what several restarts interrupt is not what ends processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.orchestrator.engine.model import RECOVERED
from services.orchestrator.engine.records import RecordKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.orchestrator.engine.records import Record

MAX_DEATHS = 5  # of processes inside one turn of a run, which is set aside then


def deaths(records: Sequence[Record]) -> int:
    """Returns how many processes in a row died inside the turn that the run has to make next."""
    count = 0
    for record in reversed(records):
        if record.kind is RecordKind.RECOVERED:
            count += 1
        elif record.kind is not RecordKind.STEP_ATTEMPT or record.payload["cause"] != RECOVERED:
            break
    return count
