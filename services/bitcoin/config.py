"""The settings of the bitcoin service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mesh.config import ConfigError, MeshConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Mining(StrEnum):
    AUTO = "auto"  # a block soon after a transaction arrives
    MANUAL = "manual"  # only when asked


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoinConfig:
    mesh: MeshConfig
    database: str = ""  # ANYA_DATABASE, a path or a postgresql:// URL; empty: in the home folder
    mining: Mining = Mining.MANUAL  # ANYA_MINE
    mining_delay: float = 2.0  # seconds from the first waiting transaction to its block
    truncate_journal: bool = False  # ANYA_JOURNAL=truncate: give up what the journal lost
    checkpoint_blocks: int = 1000  # after so many the kernel's files are brought up to date

    @property
    def folder(self) -> Path:
        return self.mesh.home / "bitcoin"

    @property
    def location(self) -> str:
        return self.database or str(self.folder / "bitcoin.db")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> BitcoinConfig:
        """ConfigError if a variable holds what nothing can start with."""
        mesh = MeshConfig.from_environment(environment, service="bitcoin")
        if mesh.network != "regtest":
            raise ConfigError(f"the embedded chain is regtest; ANYA_NETWORK is {mesh.network}")
        journal = environment.get("ANYA_JOURNAL", "")
        if journal not in ("", "truncate"):
            raise ConfigError(f"ANYA_JOURNAL must be unset or 'truncate', not {journal!r}")
        mining = environment.get("ANYA_MINE", Mining.MANUAL)
        if mining not in list(Mining):
            raise ConfigError(f"ANYA_MINE must be 'auto' or 'manual', not {mining!r}")
        return cls(
            mesh=mesh,
            database=environment.get("ANYA_DATABASE", ""),
            mining=Mining(mining),
            truncate_journal=bool(journal),
        )
