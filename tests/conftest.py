"""The parts that many tests stand on: certificates of one authority."""

from __future__ import annotations

import pytest

from mesh.testing import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))
