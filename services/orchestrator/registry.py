"""Registers and compiles workflows: the newest for a new run, the pinned one for an old run."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from mesh.errors import FailedPrecondition, Reason
from services.orchestrator import definition
from services.orchestrator.definition.operations import declared_operations
from services.orchestrator.definition.workflow import privileges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from services.orchestrator.definition.workflow import Workflow
    from services.orchestrator.engine.model import RunState
    from services.orchestrator.store.definitions import Definitions, StoredDefinition

T = TypeVar("T")

MAX_CACHED_WORKFLOWS = 1024


class Offload(Protocol):
    """Calls a function for a caller off the event loop, see worker/fair_offload.py."""

    async def __call__(self, caller: str, work: Callable[..., T], /, *args: Any) -> T: ...


class WorkflowRegistry:
    """Checks and stores definitions, and gives each run its compiled workflow."""

    def __init__(self, definitions: Definitions, offload: Offload | None = None) -> None:
        """Uses ``offload`` for checks that may take a second, so that runs are not held up."""
        self._definitions = definitions
        self._offload = offload or _inline
        self._pinned: OrderedDict[tuple[str, ...], Workflow] = OrderedDict()

    async def register_built_in(self) -> None:
        """Stores the built-in workflows of this version. Those of earlier versions stay stored."""
        for name in definition.BUILT_IN:
            text = definition.built_in_text(name)
            await self._definitions.register(definition.load(text), text)

    async def register(self, text: str, caller: str = "") -> StoredDefinition:
        """Checks a definition and stores it, in turn with other callers.

        Raises DefinitionInvalidError with all problems, and ResourceExhausted if too many
        definitions of the caller wait.
        """
        used = await self._offload(caller, definition.references, text)
        inner = await self._definitions.newest(used)
        workflow = await self._offload(caller, _check, text, inner)
        if workflow.id in definition.BUILT_IN and workflow.hash != current(workflow.id).hash:
            problem = definition.read(text).problem(
                ("id",), f"{workflow.id} is built in: choose another id"
            )
            raise definition.DefinitionInvalidError([problem])
        stored = await self._definitions.register(workflow, text)
        with suppress(FailedPrecondition):  # a workflow inside it has changed since
            await self._offload(caller, self.newest, stored)
        return stored

    def newest(self, stored: StoredDefinition) -> Workflow:
        """Returns the workflow for a new run; a built-in one is always that of this version.

        Raises FailedPrecondition if it no longer fits a workflow inside it, which was registered
        again.
        """
        if stored.workflow_id in definition.BUILT_IN:
            return current(stored.workflow_id)
        try:
            return _compile(stored.body, tuple(inner.body for inner in _registered(stored.inner)))
        except definition.DefinitionInvalidError as error:
            raise FailedPrecondition(
                f"{stored.workflow_id} no longer fits the workflows inside it: {error}",
                reason=Reason.DEFINITION_INVALID,
                field="workflow_id",
            ) from None

    def privileges(self, stored: StoredDefinition) -> list[str]:
        """Returns the privileges that a run of the workflow needs, sorted."""
        return sorted(privileges(self.newest(stored)))

    async def pinned(self, state: RunState) -> Workflow:
        """Returns the workflow that the run started with, whatever was registered since.

        Raises DefinitionInvalidError if the definition no longer fits the contracts.
        """
        hashes = (
            state.definition_hash,
            *itertools.chain(*sorted(state.sub_workflow_hashes.items())),
        )
        known = self._pinned.get(hashes)
        if known is None:
            known = self._pinned[hashes] = await self._read(state)
            if len(self._pinned) > MAX_CACHED_WORKFLOWS:
                self._pinned.popitem(last=False)
        return known

    async def _read(self, state: RunState) -> Workflow:
        stored = await self._definitions.find(state.workflow_id, state.definition_hash)
        shipped = {name: current(name).hash for name in definition.BUILT_IN}
        if state.sub_workflow_hashes.items() <= shipped.items():
            return _compile(stored.body)
        return definition.load(stored.body, await self._operations(state.sub_workflow_hashes))

    async def _operations(self, composites: Mapping[str, str]) -> definition.Operations:
        """Returns the operations of the contracts and these workflows, innermost first."""
        known = declared_operations()
        for name, hash in composites.items():
            stored = await self._definitions.find(name, hash)
            workflow = definition.load(stored.body, known)
            known = known.with_workflow(workflow)
            if name in definition.BUILT_IN:
                known = known.with_composite(workflow)
        return known


async def _inline(caller: str, work: Callable[..., T], *args: Any) -> T:
    return work(*args)


def _check(text: str, inner: tuple[StoredDefinition, ...]) -> Workflow:
    return definition.load(text, _operations_with(inner))


def current(name: str) -> Workflow:
    """Returns a built-in workflow as this version ships it."""
    return _compile(definition.built_in_text(name))


def _registered(inner: tuple[StoredDefinition, ...]) -> list[StoredDefinition]:
    """Returns those that are not built in: the operations include the built-in ones."""
    return [stored for stored in inner if stored.workflow_id not in definition.BUILT_IN]


def _operations_with(inner: tuple[StoredDefinition, ...]) -> definition.Operations:
    """Returns all operations, and those of these workflows that fit each other."""
    known = definition.operations()
    for stored in _registered(inner):
        with suppress(definition.DefinitionInvalidError):
            known = known.with_workflow(definition.load(stored.body, known))
    return known


@lru_cache(maxsize=MAX_CACHED_WORKFLOWS)
def _compile(body: str, inner: tuple[str, ...] = ()) -> Workflow:
    known = definition.operations()
    for text in inner:
        known = known.with_workflow(definition.load(text, known))
    return definition.load(body, known)
