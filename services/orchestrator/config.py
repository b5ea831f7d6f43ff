"""Settings of the orchestrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.config import MeshConfig
from mesh.settings import ConfigError, Settings
from services.orchestrator.engine.retry_policy import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

PEERS = ("bitcoin", "ml", "web5")  # the services that workflows call


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorConfig:
    mesh: MeshConfig
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    database: str = ""  # ANYA_DATABASE: a path or a postgresql:// URL; empty: in the home folder
    lease_seconds: float = 5.0  # ANYA_LEASE_SECONDS, 2 to 60: then other replicas take over
    max_runs: int = 1024  # ANYA_MAX_RUNS: in memory; others wait, or are suspended, in the store
    max_runs_per_client: int = 2000  # ANYA_MAX_RUNS_PER_CLIENT: that have not ended
    max_concurrent_steps: int = 64  # ANYA_MAX_CONCURRENT_STEPS: calls in flight to other services
    retain_days: float = 30.0  # ANYA_RETAIN_DAYS: after its end a run is deleted; 0: never
    erase_pii_days: float = 7.0  # ANYA_ERASE_PII_DAYS: after its end a run is erased; 0: never
    max_in_flight: int = 256  # calls served at once, watches included

    @property
    def location(self) -> str:
        return self.database or str(self.mesh.home / "orchestrator" / "orchestrator.db")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> OrchestratorConfig:
        """Reads the settings. Raises ConfigError if a variable is invalid."""
        settings = Settings(environment)
        config = cls(
            mesh=MeshConfig.from_environment(environment, service="orchestrator"),
            database=settings.text("ANYA_DATABASE"),
            lease_seconds=settings.number(
                "ANYA_LEASE_SECONDS", 5, minimum=2, maximum=60, unit="seconds"
            ),
            max_runs=settings.integer("ANYA_MAX_RUNS", 1024, minimum=1, maximum=10_000),
            max_runs_per_client=settings.integer(
                "ANYA_MAX_RUNS_PER_CLIENT", 2000, minimum=1, maximum=1_000_000
            ),
            max_concurrent_steps=settings.integer(
                "ANYA_MAX_CONCURRENT_STEPS", 64, minimum=1, maximum=10_000
            ),
            retain_days=settings.number(
                "ANYA_RETAIN_DAYS", 30, minimum=0, maximum=36_500, unit="days (0: never)"
            ),
            erase_pii_days=settings.number(
                "ANYA_ERASE_PII_DAYS", 7, minimum=0, maximum=36_500, unit="days (0: never)"
            ),
        )
        if missing := [peer for peer in PEERS if peer not in config.mesh.peers]:
            raise ConfigError(
                f"ANYA_PEERS lacks {', '.join(missing)}: add name=host:port for each of them"
            )
        return config
