"""Registrations of one client wait for each other, not for those of another one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mesh.errors import ResourceExhausted
from services.orchestrator.worker.fair_offload import MAX_WAITING, FairOffload


async def test_a_caller_waits_for_one_function_of_another_caller_at_most() -> None:
    offload, order, gate = FairOffload(), list[str](), threading.Event()

    def work(name: str) -> None:
        gate.wait(5)
        order.append(name)

    many = [asyncio.ensure_future(offload("many", work, f"many {at}")) for at in range(8)]
    await asyncio.sleep(0)
    one = asyncio.ensure_future(offload("one", work, "one"))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(one, *many)

    assert order[:2] == ["many 0", "one"]
    assert len(order) == 9


async def test_one_function_runs_at_a_time() -> None:
    offload, running, most = FairOffload(), 0, list[int]()

    def work() -> None:
        nonlocal running
        running += 1
        most.append(running)
        running -= 1

    await asyncio.gather(*(offload(f"caller {at % 3}", work) for at in range(12)))

    assert max(most) == 1


async def test_caller_with_too_many_waiting_is_refused_and_others_are_not() -> None:
    offload, gate = FairOffload(), threading.Event()
    many = [asyncio.ensure_future(offload("many", gate.wait, 5)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)

    with pytest.raises(ResourceExhausted, match="16 registrations of this client wait"):
        await offload("many", gate.wait, 5)
    other = asyncio.ensure_future(offload("other", gate.wait, 5))
    await asyncio.sleep(0)
    gate.set()

    assert await other
    await asyncio.gather(*many)


async def test_error_of_a_function_reaches_its_caller_and_frees_its_place() -> None:
    offload = FairOffload()

    def fail() -> None:
        raise ValueError("not a definition")

    for _ in range(MAX_WAITING + 1):
        with pytest.raises(ValueError, match="not a definition"):
            await offload("caller", fail)
