"""The results of requests to mine or to reorganise, and their stored form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from formats.bitcoin.hashes import BlockHash

if TYPE_CHECKING:
    from typing import Any

E = TypeVar("E", "Mined", "Reorganized")


@dataclass(frozen=True, slots=True)
class Mined:
    """Blocks mined on the tip."""

    added: ClassVar[str] = "hashes"

    hashes: tuple[BlockHash, ...]
    height: int  # of the last one


@dataclass(frozen=True, slots=True)
class Reorganized:
    """Blocks replaced by a longer branch."""

    added: ClassVar[str] = "connected"

    disconnected: tuple[BlockHash, ...]  # tip first
    connected: tuple[BlockHash, ...]
    height: int  # of the last one connected


def encode(extension: Mined | Reorganized) -> bytes:
    """Returns the stored form: JSON, hashes in hex in internal order."""
    return json.dumps({name: _encoded(value) for name, value in asdict(extension).items()}).encode()


def decode(kind: type[E], raw: bytes) -> E:
    """Returns the result that ``encode`` stored."""
    return kind(**{name: _decoded(value) for name, value in json.loads(raw).items()})


def added(kind: type[Mined] | type[Reorganized], raw: bytes) -> list[BlockHash]:
    """Returns the blocks that a stored result added to the chain."""
    return list(_decoded(json.loads(raw)[kind.added]))


def _encoded(value: Any) -> Any:
    return value if isinstance(value, int) else [hash.hex() for hash in value]


def _decoded(value: Any) -> Any:
    return value if isinstance(value, int) else tuple(BlockHash(bytes.fromhex(v)) for v in value)
