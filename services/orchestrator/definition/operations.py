"""The operations that steps can name, read from the method options of the contracts."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, cast

from google.protobuf.message_factory import GetMessageClass

from anya.bitcoin.v1 import analysis_pb2 as bitcoin_analysis
from anya.bitcoin.v1 import chain_pb2, ownership_pb2, wallet_pb2
from anya.ml.v1 import risk_pb2
from anya.web5.v1 import analysis_pb2 as web5_analysis
from anya.web5.v1 import did_pb2, identity_pb2, record_pb2
from mesh.rpc import contracts
from services.orchestrator.definition.types import TypeKind, ValueType, object_type
from services.orchestrator.definition.workflow import (
    Call,
    Effect,
    Method,
    Operation,
    Workflow,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

CONTRACTS = (
    bitcoin_analysis,
    chain_pb2,
    ownership_pb2,
    wallet_pb2,
    risk_pb2,
    web5_analysis,
    did_pb2,
    identity_pb2,
    record_pb2,
)

_CAPITAL = re.compile(r"(?<=.)[A-Z]")
WORKFLOW = "workflow"  # the protocol of steps that run a workflow


class Operations:
    """An immutable set of operations by name, and of workflows by id."""

    def __init__(self, operations: Iterable[Operation], workflows: Iterable[Workflow] = ()) -> None:
        self._by_name = {operation.name: operation for operation in operations}
        self._workflows = {workflow.id: workflow for workflow in workflows}

    def find(self, name: str) -> Operation | None:
        """Returns the operation of this name, or None if there is none."""
        return self._by_name.get(name)

    def nearest(self, name: str) -> str:
        """Returns a hint with the most similar name, or an empty text if none is similar."""
        return _hint(name, self._by_name)

    def workflow(self, id: str) -> Workflow | None:
        """Returns the workflow of this id, or None if there is none."""
        return self._workflows.get(id)

    def nearest_workflow(self, id: str) -> str:
        """Returns a hint with the most similar id, or an empty text if none is similar."""
        return _hint(id, self._workflows)

    def with_workflow(self, workflow: Workflow) -> Operations:
        """Returns these operations and one more workflow, which steps can run."""
        return Operations(self._by_name.values(), [*self._workflows.values(), workflow])

    def with_composite(self, workflow: Workflow) -> Operations:
        """Returns these operations, and the workflow as one more operation under its id."""
        return Operations([*self._by_name.values(), composite(workflow)], self._workflows.values())


def _hint(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def composite(workflow: Workflow) -> Operation:
    """Returns a workflow as an operation that replies with the whole reply of its last step."""
    last = workflow.steps[-1]
    assert isinstance(last.action, Call)  # noqa: S101  (every built-in workflow ends with a call)
    called = last.action.operation
    reply: ValueType = called.reply
    return Operation(
        name=workflow.id,
        protocol=called.protocol,
        request=workflow.inputs.as_type(),
        reply=reply.or_null() if last.condition else reply,
        runs=workflow,
    )


def as_operation(workflow: Workflow) -> Operation:
    """Returns a workflow as a step runs it: it replies with the outputs of its last step."""
    return Operation(
        name=workflow.id,
        protocol=WORKFLOW,
        request=workflow.inputs.as_type(),
        reply=ValueType(TypeKind.OBJECT, members=workflow.outputs),
        runs=workflow,
        names_outputs=True,
    )


@cache
def cancel_of(method: Method) -> Operation | None:
    """Returns the operation that cancels a call of a method, or None if the contract has none.

    It makes the service refuse every later attempt of the call. No step can name it.
    """
    cancel = method.cancel
    if cancel is None:
        return None
    return Operation(
        name=_CAPITAL.sub(r"_\g<0>", cancel.path.rpartition("/")[2]).lower(),
        protocol=cancel.service,
        request=object_type(cast("Descriptor", cancel.request.DESCRIPTOR)),
        reply=object_type(cast("Descriptor", cancel.reply.DESCRIPTOR)),
        runs=cancel,
    )


@cache
def declared_operations() -> Operations:
    """Returns the operations of the contracts, each of which is one RPC."""
    return Operations(
        _operation(method)
        for contract in CONTRACTS
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if contracts.operation(method).name
    )


def service_of(service: ServiceDescriptor) -> str:
    """Returns the name of a service: ``"web5"`` for one of package ``anya.web5.v1``."""
    return service.file.package.split(".")[1]


def _operation(method: MethodDescriptor) -> Operation:
    service = service_of(method.containing_service)
    return Operation(
        name=contracts.operation(method).name,
        protocol=service,
        request=object_type(method.input_type),
        reply=object_type(method.output_type),
        runs=_method(method),
    )


def _method(method: MethodDescriptor) -> Method:
    service = method.containing_service
    declared = contracts.operation(method)
    return Method(
        path=f"/{service.full_name}/{method.name}",
        service=service_of(service),
        request=GetMessageClass(method.input_type),
        reply=GetMessageClass(method.output_type),
        effect=Effect(declared.effect),
        privilege=declared.privilege,
        cancel=_method(service.methods_by_name[declared.cancel]) if declared.cancel else None,
    )
