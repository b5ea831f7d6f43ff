"""The settings of the ml service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.config import MeshConfig
from mesh.settings import Settings, read_file
from services.ml.policy import RiskPolicy, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS = Path(__file__).with_name("models")


@dataclass(frozen=True, slots=True)
class MlConfig:
    mesh: MeshConfig
    database: str  # ANYA_DATABASE: a path, or a postgresql:// URL
    models: Path = MODELS  # ANYA_MODELS: NAME/VERSION/, see services/ml/registry.py
    # ANYA_RISK_POLICY: a file, see services/ml/policy.py
    policy: RiskPolicy = field(default_factory=RiskPolicy)
    max_in_flight: int = 256

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> MlConfig:
        """Reads the settings. Raises ConfigError if a variable is invalid."""
        settings = Settings(environment)
        mesh = MeshConfig.from_environment(environment, service="ml")
        return cls(
            mesh,
            database=settings.text("ANYA_DATABASE", str(mesh.home / "ml" / "ml.db")),
            models=settings.path("ANYA_MODELS", MODELS),
            policy=_policy(settings.text("ANYA_RISK_POLICY")),
        )


def _policy(path: str) -> RiskPolicy:
    return parse(read_file("ANYA_RISK_POLICY", Path(path))) if path else RiskPolicy()
