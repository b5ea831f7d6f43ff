"""The watch of the policy file and of open streams, in every service."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mesh.config import MeshConfig
from mesh.runtime import open_runtime
from mesh.testing import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.testing import Authority


@pytest.fixture
def config(authority: Authority, tmp_path: Path) -> MeshConfig:
    return MeshConfig(
        service="bitcoin", identity=authority.issue_service("bitcoin"), home=tmp_path / "home"
    )


async def test_changed_policy_file_is_loaded_without_a_signal(
    config: MeshConfig, tmp_path: Path
) -> None:
    path, mounted = tmp_path / "trust.yaml", tmp_path / "mounted.yaml"
    path.write_text(config.trust_file.read_text())
    mounted.symlink_to(path)

    async with open_runtime(replace(config, trust_file=mounted)) as runtime:
        first = runtime.policy.current
        other = tmp_path / "other.yaml"
        other.write_text(path.read_text() + "# changed\n")
        swapped = tmp_path / "swapped.yaml"
        swapped.symlink_to(other)
        swapped.rename(mounted)

        await eventually(lambda: runtime.policy.current is not first)


async def test_process_stops_if_it_can_no_longer_watch_authority(
    config: MeshConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    try:
        async with open_runtime(config) as runtime:
            monkeypatch.setattr(runtime, "review_streams", lambda: 1 / 0)
            async with asyncio.timeout(10):
                await stopped.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)

    assert "authority is no longer watched" in caplog.text
