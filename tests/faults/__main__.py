"""``make test-faults``: 1,000 payments under random kills, and proof of what became of each."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.faults.deployment import Store
from tests.faults.trial import STORM, Verdict, try_payments


def main() -> int:
    arguments = _parser().parse_args()
    home = Path(tempfile.mkdtemp(prefix="anya-faults-"))
    print(f"seed {arguments.seed}, {arguments.store}, home {home}", file=sys.stderr)
    weather = STORM.scaled(arguments.payments)
    verdict = asyncio.run(try_payments(home / "mesh", arguments.seed, weather, arguments.store))
    return _report(verdict, home)


def _report(verdict: Verdict, home: Path) -> int:
    print(verdict)
    if verdict.holds:
        return 0
    print(f"the mesh's stores and logs are in {home}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--payments", type=int, default=STORM.payments, metavar="N")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), metavar="N")
    parser.add_argument("--store", type=Store, choices=list(Store), default=Store.SQLITE)
    return parser


if __name__ == "__main__":
    sys.exit(main())
