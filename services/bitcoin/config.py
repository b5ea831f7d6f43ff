"""The settings of the bitcoin service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.config import MeshConfig
from mesh.settings import ConfigError, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping


FEERATE_SAT_PER_KVB = 2_000
MAX_FEE_SAT = 100_000
FINAL_DEPTH = 6  # confirmations


class MiningMode(StrEnum):
    AUTO = "auto"  # a block soon after a transaction enters the mempool
    MANUAL = "manual"  # only by MineBlocks


@dataclass(frozen=True, slots=True, kw_only=True)
class BitcoinConfig:
    mesh: MeshConfig
    database: str = ""  # ANYA_DATABASE, a path or a postgresql:// URL; empty: in the home folder
    mining: MiningMode = MiningMode.MANUAL  # ANYA_MINE
    mining_delay_seconds: float = 2.0  # from the first transaction in the mempool to its block
    truncate_block_log: bool = False  # ANYA_BLOCK_LOG=truncate: drop blocks that the block log lost
    checkpoint_blocks: int = 1000  # after so many blocks the kernel writes its files
    master_key_file: str = ""  # ANYA_MASTER_KEY_FILE; empty: created in the home folder
    feerate: int = FEERATE_SAT_PER_KVB  # ANYA_FEERATE, sat per 1000 vbytes of a payment
    max_fee_sat: int = MAX_FEE_SAT  # ANYA_MAX_FEE_SAT, of one payment
    final_depth: int = FINAL_DEPTH  # ANYA_FINAL_DEPTH, confirmations of a settled payment
    poll_seconds: float = 1.0  # between two polls of open payments, if the chain does not change

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
        """Reads the settings. Raises ConfigError if a variable is invalid."""
        settings = Settings(environment)
        mesh = MeshConfig.from_environment(environment, service="bitcoin")
        if mesh.network != "regtest":
            raise ConfigError(
                f"ANYA_NETWORK is {mesh.network!r}: the embedded chain is regtest only; unset it"
            )
        return cls(
            mesh=mesh,
            database=settings.text("ANYA_DATABASE"),
            mining=MiningMode(settings.choice("ANYA_MINE", MiningMode.MANUAL, list(MiningMode))),
            truncate_block_log=bool(settings.choice("ANYA_BLOCK_LOG", "", ["truncate"])),
            master_key_file=settings.text("ANYA_MASTER_KEY_FILE"),
            feerate=settings.integer(
                "ANYA_FEERATE", FEERATE_SAT_PER_KVB, minimum=100, maximum=1_000_000
            ),
            max_fee_sat=settings.integer(
                "ANYA_MAX_FEE_SAT", MAX_FEE_SAT, minimum=1, maximum=10_000_000
            ),
            final_depth=settings.integer("ANYA_FINAL_DEPTH", FINAL_DEPTH, minimum=1, maximum=100),
        )
