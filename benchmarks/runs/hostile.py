"""The time that a client waits while another one runs every attack on an orchestrator."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from anya.orchestrator.v1 import workflow_pb2 as pb
from mesh.testing import Authority
from tests.orchestrator.conftest import connect
from tests.orchestrator.fake_services import FakeServices, serve_peers
from tests.orchestrator.processes import environment_of, process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterable

    from anya.orchestrator.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

READS_PER_S = 20
CALL_TIMEOUT_S = 60.0
REGISTRATIONS = 40
TEXT = "a" * 900_000
ALL = "{{input.l}}.all(a, a >= 0)"
MATCHES = "{{input.l}}.all(a, !{{input.s}}.matches('(x|y)*z'))"
PAIRS = "{{input.l}}.all(a, {{input.l}}.all(b, a + b >= 0))"


def each(items: str, step: dict[str, Any]) -> dict[str, Any]:
    """Returns a step that runs another one for each item."""
    inside = {"items": items, "max_concurrency": 64, "steps": [step]}
    return {"id": f"each_{step['id']}", "for_each": inside}


def attacks() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Returns the step and the input of each hostile run, by the id of its workflow."""
    few, many = list(range(130)), list(range(1000))
    plain: dict[str, Any] = {"id": "s", "set": {"x": 1}}
    matches = plain | {"condition": MATCHES}
    pairs, all_of = plain | {"condition": PAIRS}, plain | {"condition": ALL}
    big: dict[str, Any] = {"id": "s", "set": {"x": "{{input.s}}"}}
    return {
        "matches": (each("{{input.i}}", matches), {"i": few, "l": [0] * 9000, "s": TEXT}),
        "pairs": (each("{{input.i}}", each("{{input.i}}", pairs)), {"i": few, "l": few}),
        "nested": (each("{{input.i}}", each("{{input.i}}", all_of)), {"i": few, "l": few}),
        "plain": (each("{{input.i}}", each("{{input.i}}", plain)), {"i": few}),
        "explode": (each("{{input.i}}", big), {"i": many, "s": TEXT}),
    }


def large_yaml(size: int) -> str:
    """Returns a definition in YAML of about so many bytes."""
    steps = "".join(
        f"  - id: s{at}\n    set: {{a: [1, 2, 3], b: {{c: d}}}}\n" for at in range(size // 45)
    )
    return f"id: big\nname: big\nsteps:\n{steps}"


async def measure(seconds: float) -> list[float]:
    """Returns the seconds of each GetRun of one client while another one attacks."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        authority = Authority(place)
        async with serve_peers(authority, place / "peers", FakeServices()) as peers:
            environment = environment_of(authority, place / "a", peers)
            async with (
                process(environment) as (_, port),
                connect(authority, port) as workflows,
                connect(authority, port) as hostile,
            ):
                await register(workflows, "quiet", {"id": "s", "set": {"x": 1}})
                run_id = await start(workflows, "quiet", {})
                attack = asyncio.create_task(_attack(hostile, seconds))
                try:
                    return [took async for took in _reads(workflows, run_id, seconds)]
                finally:
                    attack.cancel()
                    await asyncio.gather(attack, return_exceptions=True)


async def _reads(
    workflows: WorkflowServiceAsyncStub, run_id: str, seconds: float
) -> AsyncIterator[float]:
    began = time.perf_counter()
    for number in range(int(seconds * READS_PER_S)):
        await asyncio.sleep(max(0.0, began + number / READS_PER_S - time.perf_counter()))
        asked = time.perf_counter()
        await workflows.GetRun(pb.GetRunRequest(run_id=run_id), timeout=CALL_TIMEOUT_S)
        yield time.perf_counter() - asked


async def _attack(hostile: WorkflowServiceAsyncStub, seconds: float) -> None:
    """Repeats every attack, all of them at once."""
    found = attacks()
    for id, (step, _) in found.items():
        await register(hostile, id, step)
    texts = [large_yaml(240 * 1024), large_yaml(60 * 1024)]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        runs = [start(hostile, id, given) for id, (_, given) in found.items()]
        registrations = [
            hostile.RegisterWorkflow(
                pb.RegisterWorkflowRequest(definition=texts[at % 2]), timeout=CALL_TIMEOUT_S
            )
            for at in range(REGISTRATIONS)
        ]
        await _done_or_refused([*runs, *registrations])


async def _done_or_refused(calls: Iterable[Awaitable[object]]) -> None:
    """Waits for calls that may be refused. Raises what is no refusal."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, grpc.aio.AioRpcError):
            raise result


async def register(workflows: WorkflowServiceAsyncStub, id: str, step: dict[str, Any]) -> None:
    """Registers a workflow of one step."""
    text = json.dumps({"id": id, "name": id, "steps": [step]})
    await workflows.RegisterWorkflow(
        pb.RegisterWorkflowRequest(definition=text), timeout=CALL_TIMEOUT_S
    )


async def start(workflows: WorkflowServiceAsyncStub, id: str, given: dict[str, Any]) -> str:
    """Starts a run and returns its id."""
    run_id = str(uuid.uuid4())
    input = ParseDict(given, Struct())
    request = pb.StartRunRequest(request_id=run_id, workflow_id=id, input=input)
    await workflows.StartRun(request, timeout=CALL_TIMEOUT_S)
    return run_id
