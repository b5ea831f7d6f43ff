"""``make test-faults``: makes 1,000 payments under random faults and checks each outcome."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.faults.deployment import Store
from tests.faults.trial import THOUSAND_PAYMENTS, TrialResult, run_trial


def main() -> int:
    arguments = _parser().parse_args()
    home = Path(tempfile.mkdtemp(prefix="anya-faults-"))
    print(f"seed {arguments.seed}, {arguments.store}, home {home}", file=sys.stderr)
    profile = THOUSAND_PAYMENTS.scaled(arguments.payments)
    result = asyncio.run(run_trial(home / "mesh", arguments.seed, profile, arguments.store))
    return _report(result, home)


def _report(result: TrialResult, home: Path) -> int:
    print(result)
    if result.holds:
        return 0
    print(f"the mesh's stores and logs are in {home}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--payments", type=int, default=THOUSAND_PAYMENTS.payments, metavar="N")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), metavar="N")
    parser.add_argument("--store", type=Store, choices=list(Store), default=Store.SQLITE)
    return parser


if __name__ == "__main__":
    sys.exit(main())
