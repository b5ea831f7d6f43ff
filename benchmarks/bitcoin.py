"""Parsing a full block of the main network, against python-bitcoinlib.

Both return the txid, the prevouts, and the outputs of every transaction. Each side runs in a
process of its own; the two parse in turns, and a round compares CPU time, not the time that a busy
machine lets pass. Both must find the same transactions.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import PIPE, Popen

from benchmarks import peer
from benchmarks.ratio import Compared, Measure, Ratio, of_rounds
from benchmarks.rounds import Plan, Sample, compare
from benchmarks.runs.engine import EngineError

BLOCK = "mainnet-block-413567.raw"
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


class Parser:
    """A side of the comparison: blocks parsed, and the CPU seconds that this took."""

    def __init__(self, process: Popen[str]) -> None:
        self._process = process
        self.digest = ""  # of the txids found last

    def __call__(self, seconds: float) -> Sample:
        blocks, spent = 0, 0.0
        while not blocks or spent < seconds:
            taken, self.digest = _parse(self._process)
            blocks, spent = blocks + 1, spent + taken
        return Sample(blocks, spent)


def parse(rounds: int) -> Ratio:
    """Returns how many times as fast our parser is, in the worst round."""
    return of_rounds(
        lambda: Compared(tuple(_ratios(rounds))),
        goal=MIN_SPEEDUP,
        unit=f"blocks per second of CPU time, {BLOCK}",
        peer=peer.requirement("bitcoin"),
        setup="a process for each side; txids, prevouts and outputs of all transactions",
    )


def _ratios(rounds: int) -> list[float]:
    block = Path(os.environ.get("ANYA_TEST_DATA", ""), BLOCK)
    if not block.exists():
        raise peer.PeerMissing(f"{BLOCK} is not in the folder that ANYA_TEST_DATA names")
    theirs = peer.python("bitcoin")
    with _reader(sys.executable, OURS, block) as us, _reader(theirs, THEIRS, block) as them:
        sides = Parser(us), Parser(them)
        ratios = compare(*sides, Plan(rounds))
    if sides[0].digest != sides[1].digest:
        raise EngineError("the two parsers found different transactions")
    return ratios


def _parse(reader: Popen[str]) -> tuple[float, str]:
    """Returns the CPU seconds of one parse, and a digest of the txids found."""
    assert reader.stdin is not None  # noqa: S101  (both are pipes)
    assert reader.stdout is not None  # noqa: S101
    reader.stdin.write("again\n")
    reader.stdin.flush()
    if not (line := reader.stdout.readline()):
        raise EngineError("a parser ended early; stderr has its error")
    seconds, digest = json.loads(line)
    return seconds, digest


def _reader(python: str | Path, read: str, block: Path) -> Popen[str]:
    """Starts a process that parses the block once per line of its input, and ends with it."""
    command = [str(python), "-c", read + TIMING, str(block)]
    return Popen(command, stdin=PIPE, stdout=PIPE, text=True)  # noqa: S603  (ours)


MEASURES: dict[str, Measure] = {"parse_vs_python_bitcoinlib": parse}
