"""Settings of the orchestrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh.config import ConfigError, MeshConfig
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
        config = cls(
            mesh=MeshConfig.from_environment(environment, service="orchestrator"),
            database=environment.get("ANYA_DATABASE", ""),
            lease_seconds=_seconds(environment, "ANYA_LEASE_SECONDS", default="5"),
            max_runs=_positive(environment, "ANYA_MAX_RUNS", default="1024"),
            max_concurrent_steps=_positive(environment, "ANYA_MAX_CONCURRENT_STEPS", default="64"),
            retain_days=_days(environment, "ANYA_RETAIN_DAYS", default="30"),
            erase_pii_days=_days(environment, "ANYA_ERASE_PII_DAYS", default="7"),
        )
        if missing := [peer for peer in PEERS if peer not in config.mesh.peers]:
            raise ConfigError(f"ANYA_PEERS must give the addresses of: {', '.join(missing)}")
        return config


def _positive(environment: Mapping[str, str], name: str, *, default: str) -> int:
    text = environment.get(name, default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ConfigError(f"{name} must be from 1 to 10000, not {text!r}")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, *, default: str) -> float:
    text = environment.get(name, default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 2 <= seconds <= 60:
        raise ConfigError(f"{name} must be from 2 to 60 seconds, not {text!r}")
    return seconds


def _days(environment: Mapping[str, str], name: str, *, default: str) -> float:
    text = environment.get(name, default)
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 36_500:
        raise ConfigError(f"{name} must be from 0 (never) to 36500 days, not {text!r}")
    return days
