"""Runs whose calls get random outcomes, also late ones, and that are redriven when they can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from anya.bitcoin.v1 import wallet_pb2
from anya.bitcoin.v1.wallet_pb2 import PAYMENT_STATE_CANCELLED
from mesh.errors import FailedPrecondition, Reason
from services.orchestrator.engine.activations import CallCommand, CancelCommand, Started
from services.orchestrator.engine.fold import fold
from services.orchestrator.engine.model import StepError
from services.orchestrator.engine.transition import commands
from tests.orchestrator.engine.engine_run import CRASH, POLICY, EngineRun
from tests.orchestrator.engine.finished_runs import end_by_defect, redrive

if TYPE_CHECKING:
    from google.protobuf.message import Message

LOST = StepError("DEADLINE_EXCEEDED", "", "late")
REFUSED = StepError("FAILED_PRECONDITION", "DID_INVALID", "no")

REDRIVABLE = ("FAILED", "NEEDS_ATTENTION", "COMPENSATION_FAILED")


@dataclass
class Services:
    """Services that do each request once per key, also a late one, and no cancelled one."""

    done: dict[str, set[str]] = field(default_factory=dict)  # path -> keys
    late: list[tuple[str, str]] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    def serve(
        self, run: EngineRun, command: object, outcome: str
    ) -> StepError | Message | str | None:
        """Returns the answer that the engine receives."""
        if isinstance(command, CancelCommand):
            key = run.state.steps[command.path].key
            if outcome not in ("ok", "lost after"):
                return LOST
            if key not in self.done.get(command.path, ()):
                self.cancelled.add(key)
            return None if outcome == "ok" else LOST
        if not isinstance(command, CallCommand):
            return CRASH if outcome == "crash" else None
        path, key = command.path, run.state.steps[command.path].key
        if run.state.steps[path].cancels_payment and outcome not in ("late", "lost", "open"):
            return self._refuse(path.removesuffix("/cancel"), key, outcome)
        match outcome:
            case "late":
                self.late.append((path, key))
                return LOST
            case "lost":
                return LOST
            case "open":
                return StepError("UNAVAILABLE", Reason.BREAKER_OPEN, "open")
            case "refuse" if key not in self.done.get(path, ()):
                return REFUSED
            case "crash":
                self._do(path, key)
                return CRASH
            case _:
                pass
        if not self._do(path, key):
            return StepError("FAILED_PRECONDITION", Reason.PAYMENT_CANCELLED, "cancelled")
        return LOST if outcome == "lost after" else None

    def _refuse(self, path: str, key: str, outcome: str) -> StepError | Message | str:
        is_made = key in self.done.get(path, ())
        if not is_made:
            self.cancelled.add(key)
        if outcome in ("crash", "lost after"):
            return CRASH if outcome == "crash" else LOST
        state = wallet_pb2.PAYMENT_STATE_BROADCAST if is_made else PAYMENT_STATE_CANCELLED
        return wallet_pb2.CancelPaymentResponse(payment=wallet_pb2.Payment(state=state))

    def arrive(self) -> None:
        """Delivers every late request."""
        while self.late:
            path, key = self.late.pop()
            if path.endswith("/cancel"):
                self._refuse(path.removesuffix("/cancel"), key, "ok")
            else:
                self._do(path, key)

    def _do(self, path: str, key: str) -> bool:
        if key in self.cancelled:
            return False
        self.done.setdefault(path, set()).add(key)
        return True


OUTCOMES = st.sampled_from(
    ["ok", "ok", "ok", "late", "lost", "lost after", "refuse", "refuse", "open", "crash", "defect"]
)


def live(run: EngineRun, services: Services, happenings: list[tuple[int, str]]) -> None:
    """Applies the outcomes to the run, and redrives it whenever it can be."""
    for which, outcome in happenings:
        if run.state.finished:
            if run.status not in REDRIVABLE:
                return
            try:
                redrive(run, begin=outcome != "crash")
            except FailedPrecondition:
                return
            if outcome == "crash":
                run.state = fold(run.state.run_id, run.journal)
                run.apply(Started())
        elif outcome == "defect":
            for path in run.calls:
                services.late.append((path, run.state.steps[path].key))
            end_by_defect(run)
        elif run.commands:
            command = run.commands[which % len(run.commands)]
            run.do(command, services.serve(run, command, outcome))
            if outcome == "late" and which % 2:
                services.arrive()
        replayed = fold(run.state.run_id, run.journal)
        assert replayed == run.state
        assert commands(replayed, POLICY) == run.commands
        assert run.state.finished or run.commands


HAPPENINGS = st.lists(st.tuples(st.integers(0, 9), OUTCOMES), max_size=80)
