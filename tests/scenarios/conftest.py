"""Fixtures of scenarios: the home after `anya demo`, and databases for a mesh."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from cli.home import SERVICES
from tests.scenarios.meshes import Result, anya

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LEASE_SECONDS = "2"  # runs of a killed orchestrator wait for this long


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="session")
def demo(home: Path) -> Result:
    return anya("demo", "--json", home=home)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def databases(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """Settings of a mesh on SQLite files, and of a mesh on PostgreSQL."""
    if request.param == "sqlite":
        return {}
    url: str = request.getfixturevalue("postgres_url")
    prefix = request.module.__name__.rpartition(".")[2]
    names = {service: f"{prefix}_{service}" for service in SERVICES}
    asyncio.run(_create(url, *names.values()))
    return {
        f"ANYA_DATABASE_{service.upper()}": url.replace("/postgres?", f"/{name}?")
        for service, name in names.items()
    } | {"ANYA_LEASE_SECONDS": LEASE_SECONDS}


async def _create(url: str, *names: str) -> None:
    connection = await asyncpg.connect(url)
    for name in names:
        await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
