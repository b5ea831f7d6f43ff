"""The settings of the web5 service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.config import MeshConfig
from mesh.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Web5Config:
    mesh: MeshConfig
    database: str  # ANYA_DATABASE, a path or a postgresql:// URL
    master_key: Path  # ANYA_MASTER_KEY_FILE, opens the sealed keys; created if it does not exist
    identity_policy: Path  # ANYA_IDENTITY_POLICY, see services/web5/policy.py
    max_in_flight: int = 256

    @classmethod
    def at_home(cls, mesh: MeshConfig) -> Web5Config:
        """Returns the settings of a service that keeps everything in the home folder."""
        folder = mesh.home / "web5"
        return cls(
            mesh=mesh,
            database=str(folder / "web5.db"),
            master_key=folder / "master.key",
            identity_policy=folder / "identity-policy.yaml",
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Web5Config:
        """Reads the settings. Raises ConfigError if a variable is invalid."""
        settings = Settings(environment)
        home = cls.at_home(MeshConfig.from_environment(environment, service="web5"))
        return cls(
            mesh=home.mesh,
            database=settings.text("ANYA_DATABASE", home.database),
            master_key=settings.path("ANYA_MASTER_KEY_FILE", home.master_key),
            identity_policy=settings.path("ANYA_IDENTITY_POLICY", home.identity_policy),
        )
