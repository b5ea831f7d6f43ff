"""The settings of the bitcoin service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.config import ConfigError, MeshConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


FEERATE = 2_000
MAX_FEE_SAT = 100_000
FINAL_DEPTH = 6


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
    master_key_file: str = ""  # ANYA_MASTER_KEY_FILE; empty: in the home folder, made if not there
    feerate: int = FEERATE  # ANYA_FEERATE, sat per 1000 vbytes of a payment
    max_fee_sat: int = MAX_FEE_SAT  # ANYA_MAX_FEE_SAT, of one payment
    final_depth: int = FINAL_DEPTH  # ANYA_FINAL_DEPTH, confirmations of a settled payment
    sweep_seconds: float = 1.0  # how often payments are looked after when nothing stirs

    @property
    def folder(self) -> Path:
        return self.mesh.home / "bitcoin"

    @property
    def location(self) -> str:
        return self.database or str(self.folder / "bitcoin.db")

    @property
    def master_key(self) -> Path:
        return Path(self.master_key_file) if self.master_key_file else self.folder / "master.key"

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
            master_key_file=environment.get("ANYA_MASTER_KEY_FILE", ""),
            feerate=_number(environment, "ANYA_FEERATE", FEERATE, 100, 1_000_000),
            max_fee_sat=_number(environment, "ANYA_MAX_FEE_SAT", MAX_FEE_SAT, 1, 10_000_000),
            final_depth=_number(environment, "ANYA_FINAL_DEPTH", FINAL_DEPTH, 1, 100),
        )


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name, str(default))
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigError(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)
