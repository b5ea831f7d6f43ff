"""Fixtures for tests of the interceptors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.mesh.echo import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mesh.testing import Authority
    from tests.mesh.echo import Echo


@pytest.fixture
async def echo(authority: Authority, tmp_path: Path) -> AsyncIterator[Echo]:
    async with serving(authority, tmp_path) as running:
        yield running
