"""The start of the service: its files, and its errors if one is missing or invalid."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mesh.settings import ConfigError
from services.web5.__main__ import web5
from services.web5.config import Web5Config
from tests.web5.conftest import start

if TYPE_CHECKING:
    from mesh.testing import Authority


async def refusal(config: Web5Config) -> str:
    with pytest.raises(ConfigError) as refused:
        async with web5(config):
            pytest.fail("it started")
    return str(refused.value)


async def test_service_does_not_start_with_an_invalid_policy(
    config: Web5Config,
) -> None:
    config.identity_policy.write_text("version: 1")

    assert "ANYA_IDENTITY_POLICY" in await refusal(config)


async def test_missing_policy_is_logged_as_a_warning(
    config: Web5Config, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    config.identity_policy.unlink()

    with caplog.at_level(logging.WARNING):
        async with start(config, authority):
            pass

    assert "every verification is refused" in caplog.text


async def test_service_does_not_start_with_another_master_key(
    config: Web5Config, authority: Authority
) -> None:
    async with start(config, authority):
        pass
    other = replace(config, master_key=config.master_key.with_name("other.key"))

    assert "is not the key of this store" in await refusal(other)


async def test_master_key_readable_by_others_is_refused(config: Web5Config) -> None:
    config.master_key.write_bytes(bytes(32))
    config.master_key.chmod(0o644)

    assert "chmod 600" in await refusal(config)


async def test_error_names_a_missing_folder(config: Web5Config, tmp_path: Path) -> None:
    lost = replace(config, master_key=tmp_path / "nowhere" / "master.key")

    assert "ANYA_MASTER_KEY_FILE" in await refusal(lost)


def test_paths_are_in_the_home_folder_unless_the_environment_sets_them() -> None:
    at_home = Web5Config.from_environment({"ANYA_HOME": "home", "ANYA_DATABASE": ""})
    placed = Web5Config.from_environment(
        {
            "ANYA_DATABASE": "postgresql://db/web5",
            "ANYA_MASTER_KEY_FILE": "/keys/master",
            "ANYA_IDENTITY_POLICY": "/etc/anya/identity-policy.yaml",
        }
    )

    assert at_home.database == "home/web5/web5.db"
    assert at_home.master_key == Path("home/web5/master.key")
    assert at_home.identity_policy == Path("home/web5/identity-policy.yaml")
    assert placed.database == "postgresql://db/web5"
    assert placed.master_key == Path("/keys/master")
    assert placed.identity_policy == Path("/etc/anya/identity-policy.yaml")
