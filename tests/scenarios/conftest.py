"""The home that `anya demo` leaves, for everything that is done with it afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.scenarios.meshes import Result, anya

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="session")
def demo(home: Path) -> Result:
    return anya("demo", "--json", home=home)
