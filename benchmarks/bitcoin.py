"""Parsing a full block of the main network, against python-bitcoinlib.

Both return the txid, the prevouts, and the outputs of every transaction. Each side runs in a
process of its own; the two parse in turns, and a round compares the best CPU time of each, so that
a busy machine slows neither. Both must find the same transactions.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

from benchmarks import peer
from benchmarks.ratio import Measure, Ratio

BLOCK = "mainnet-block-413567.raw"
REPETITIONS = 30  # of one round; the best of each side counts
MIN_SPEEDUP = 8.0

TIMING = """
import hashlib, json, sys, time
raw = open(sys.argv[1], "rb").read()
for _ in sys.stdin:
    start = time.process_time()
    txids = read(raw)
    seconds = time.process_time() - start
    print(json.dumps([seconds, hashlib.sha256(b"".join(txids)).hexdigest()]), flush=True)
"""
OURS = """
from formats.bitcoin.block import parse_block
def read(raw):
    return [transaction.txid for transaction in parse_block(raw).transactions]
"""
THEIRS = """
from bitcoin.core import CBlock
def read(raw):
    return [transaction.GetTxid() for transaction in CBlock.deserialize(raw).vtx]
"""


def parse(rounds: int) -> Ratio:
    """Returns how many times as fast our parser is, in the worst round."""
    try:
        value, reason = min(_ratios(rounds)), ""
    except (FileNotFoundError, peer.PeerMissing) as missing:
        value, reason = None, str(missing)
    return Ratio(
        value=value,
        goal=MIN_SPEEDUP,
        unit="times as fast",
        peer=peer.requirement("bitcoin"),
        reason=reason,
    )


def _ratios(rounds: int) -> list[float]:
    block = Path(os.environ.get("ANYA_TEST_DATA", ""), BLOCK)
    if not block.exists():
        raise FileNotFoundError(f"{BLOCK} is not in the folder that ANYA_TEST_DATA names")
    theirs = peer.python("bitcoin")
    with _reader(sys.executable, OURS, block) as us, _reader(theirs, THEIRS, block) as them:
        return [_round(us, them) for _ in range(rounds)]


def _round(us: Popen[str], them: Popen[str]) -> float:
    ours, theirs = [], []
    for _ in range(REPETITIONS):
        our_seconds, our_digest = _parse(us)
        their_seconds, their_digest = _parse(them)
        if our_digest != their_digest:
            raise AssertionError("the two parsers found different transactions")
        ours.append(our_seconds)
        theirs.append(their_seconds)
    return min(theirs) / min(ours)


def _parse(reader: Popen[str]) -> tuple[float, str]:
    """Returns the CPU seconds of one parse, and a digest of the txids found."""
    assert reader.stdin is not None  # noqa: S101  (both are pipes)
    assert reader.stdout is not None  # noqa: S101
    reader.stdin.write("again\n")
    reader.stdin.flush()
    seconds, digest = json.loads(reader.stdout.readline())
    return seconds, digest


def _reader(python: str | Path, read: str, block: Path) -> Popen[str]:
    """Starts a process that parses the block once per line of its input, and ends with it."""
    command = [str(python), "-c", read + TIMING, str(block)]
    return Popen(command, stdin=PIPE, stdout=PIPE, text=True)  # noqa: S603  (ours)


MEASURES: dict[str, Measure] = {"parse_vs_python_bitcoinlib": parse}
