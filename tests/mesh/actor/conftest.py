"""Fixtures of the tests of actors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mesh.clock import ManualClock
from tests.mesh.actor.recording_actor import (
    Recorders,
    World,
    recorders,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=[False, True], ids=["own_context", "sender_context"])
async def actors(
    request: pytest.FixtureRequest, world: World, clock: ManualClock
) -> AsyncIterator[Recorders]:
    registry = recorders(world, clock, in_sender_context=request.param)
    async with registry.running(grace_s=0.2):
        yield registry


@pytest.fixture
async def activated(world: World, clock: ManualClock) -> AsyncIterator[Recorders]:
    """A registry that cannot build an actor by itself."""
    async with recorders(world, clock, can_build=False).running(grace_s=0.2) as registry:
        yield registry
