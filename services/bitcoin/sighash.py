"""What the key of a P2WPKH output signs of who spends it: all of it (BIP 143, SIGHASH_ALL)."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from services.bitcoin.hashes import sha256d
from services.bitcoin.transaction import compact_size, serialize_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.bitcoin.transaction import Input, Output

SIGHASH_ALL = b"\x01"  # what follows the signature in its witness


def sighashes(
    *,
    version: int,
    inputs: Sequence[Input],
    spent: Sequence[Output],
    outputs: Sequence[Output],
    lock_time: int = 0,
) -> list[bytes]:
    """One hash for each input; ``spent`` are the P2WPKH outputs that they spend, in order."""
    before = (
        pack("<i", version)
        + sha256d(b"".join(one.prevout for one in inputs))
        + sha256d(b"".join(pack("<I", one.sequence) for one in inputs))
    )
    listed = serialize_outputs(outputs).removeprefix(compact_size(len(outputs)))
    after = sha256d(listed) + pack("<II", lock_time, SIGHASH_ALL[0])
    return [
        sha256d(
            before
            + one.prevout
            + b"\x19\x76\xa9\x14"
            + coin.script_pubkey[2:]
            + b"\x88\xac"
            + pack("<qI", coin.amount_sat, one.sequence)
            + after
        )
        for one, coin in zip(inputs, spent, strict=True)
    ]
