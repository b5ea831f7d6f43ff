"""The settings of the ml service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.config import ConfigError, MeshConfig
from services.ml.policy import RiskPolicy, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS = Path(__file__).with_name("models")


@dataclass(frozen=True, slots=True)
class MlConfig:
    mesh: MeshConfig
    database: str  # ANYA_DATABASE: a path, or a postgresql:// URL
    models: Path = MODELS  # ANYA_MODELS: NAME/VERSION/, see services/ml/registry.py
    policy: RiskPolicy = field(
        default_factory=RiskPolicy
    )  # ANYA_RISK_POLICY: a file, see services/ml/policy.py
    max_in_flight: int = 256

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> MlConfig:
        """ConfigError if a variable holds what nothing can start with."""
        mesh = MeshConfig.from_environment(environment, service="ml")
        return cls(
            mesh,
            database=environment.get("ANYA_DATABASE") or str(mesh.home / "ml" / "ml.db"),
            models=Path(environment.get("ANYA_MODELS", MODELS)),
            policy=_policy(environment.get("ANYA_RISK_POLICY")),
        )


def _policy(path: str | None) -> RiskPolicy:
    if path is None:
        return RiskPolicy()
    try:
        return parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"ANYA_RISK_POLICY {path} cannot be read: {error}") from None
