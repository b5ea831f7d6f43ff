"""Dust: an output that costs more to spend than it holds, which no node relays."""

from __future__ import annotations

from formats.bitcoin.script import is_unspendable, witness_program
from formats.bitcoin.transaction import compact_size

DUST_FEERATE_SAT_PER_KVB = 3_000


def dust_threshold(script: bytes) -> int:
    """Returns the smallest amount, in sat, worth the fee to spend it; 0 if it is unspendable."""
    if is_unspendable(script):
        return 0
    spending = 67 if witness_program(script) else 148  # vbytes of an input that spends it
    return (
        (8 + len(compact_size(len(script))) + len(script) + spending)
        * DUST_FEERATE_SAT_PER_KVB
        // 1000
    )
