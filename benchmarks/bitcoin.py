"""How fast a full block of the main network is read, against python-bitcoinlib.

Both give for every transaction its txid, prevouts, and outputs with amount and script. Each side
runs in a process of its own, takes its best of a few, and they take turns; both must find the same
transactions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import peer
from benchmarks.ratio import Measure, Ratio

BLOCK = "mainnet-block-413567.raw"
PARSES = 10  # in one round, of which the best counts
GOAL = 8.0

TIMING = f"""
import hashlib, json, sys, time
raw = open(sys.argv[1], "rb").read()
best = float("inf")
for _ in range({PARSES}):
    start = time.perf_counter()
    txids = read(raw)
    best = min(best, time.perf_counter() - start)
print(json.dumps([best, hashlib.sha256(b"".join(txids)).hexdigest()]))
"""
OURS = """
from services.bitcoin.block import parse_block
def read(raw):
    return [transaction.txid for transaction in parse_block(raw).transactions]
"""
THEIRS = """
from bitcoin.core import CBlock
def read(raw):
    return [transaction.GetTxid() for transaction in CBlock.deserialize(raw).vtx]
"""


def parse(rounds: int) -> Ratio:
    """How many times as fast; the worst round counts."""
    try:
        value, reason = min(_ratios(rounds)), ""
    except (FileNotFoundError, peer.PeerMissing) as missing:
        value, reason = None, str(missing)
    return Ratio(
        value=value,
        goal=GOAL,
        unit="times as fast",
        peer=peer.requirement("bitcoin"),
        reason=reason,
    )


def _ratios(rounds: int) -> list[float]:
    block = Path(os.environ.get("ANYA_TEST_DATA", ""), BLOCK)
    if not block.exists():
        raise FileNotFoundError(f"{BLOCK} is not in the folder that ANYA_TEST_DATA names")
    theirs = peer.python("bitcoin")
    ratios = []
    for _ in range(rounds):
        ours_seconds, ours_found = _time(Path(sys.executable), OURS, block)
        theirs_seconds, theirs_found = _time(theirs, THEIRS, block)
        if ours_found != theirs_found:
            raise AssertionError("the two parsers found different transactions")
        ratios.append(theirs_seconds / ours_seconds)
    return ratios


def _time(python: Path, read: str, block: Path) -> tuple[float, str]:
    """Seconds of the best parse, and a digest of the txids found."""
    command = [str(python), "-c", read + TIMING, str(block)]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603  (ours)
    seconds, found = json.loads(done.stdout)
    return seconds, found


MEASURES: dict[str, Measure] = {"parse_vs_python_bitcoinlib": parse}
