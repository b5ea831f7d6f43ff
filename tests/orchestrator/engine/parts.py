"""The parts of a transition for a run that has just started, each ready to be called alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from services.orchestrator.engine.blocks import Blocks
from services.orchestrator.engine.calls import Calls
from services.orchestrator.engine.interpreter import Interpreter
from services.orchestrator.engine.record_writer import RecordWriter
from services.orchestrator.engine.retry_policy import SECOND_US, RetryPolicy
from services.orchestrator.engine.start import StartRun, start
from services.orchestrator.engine.waits import Waits
from tests.orchestrator.engine.engine_run import load

if TYPE_CHECKING:
    from services.orchestrator.definition.workflow import Step

POLICY = RetryPolicy()
START_US = 1_700_000_000 * SECOND_US


@dataclass(slots=True)
class Parts:
    writer: RecordWriter
    event_position: int = 0
    calls: Calls = field(init=False)
    waits: Waits = field(init=False)
    blocks: Blocks = field(init=False)
    interpreter: Interpreter = field(init=False)

    def __post_init__(self) -> None:
        self.writer.begin(START_US, 0.5, self.event_position)
        self.calls = Calls(self.writer, POLICY)
        self.waits = Waits(self.writer)
        self.blocks = Blocks(self.writer, self.calls)
        self.interpreter = Interpreter(self.writer, self.calls, self.waits, self.blocks)

    def step(self, id: str) -> Step:
        return self.writer.workflow.step(id)

    def records(self) -> list[tuple[str, str]]:
        """Kind and path of the records so far."""
        return [(record.kind.value, record.path) for record in self.writer.records]


def parts_of(text: str, **given: Any) -> Parts:
    workflow = load(text)
    request = StartRun("run", given, None, "", "spiffe://me")
    begun = start(workflow, request, POLICY, network="regtest", at_us=START_US, jitter=0.5)
    return Parts(RecordWriter(workflow, begun.state))
