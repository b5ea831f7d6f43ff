"""``python -m services.ml.training``: simulates, trains, measures and writes a model version.

``--check`` trains the released version again from its seeds and compares the golden outputs.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.settings import ConfigError
from services.ml.manifest import MANIFEST, REPRODUCTION_TOLERANCE, parse
from services.ml.store.models import read_model, write_version
from services.ml.training.dataset import build
from services.ml.training.export import export, run
from services.ml.training.fit import fit
from services.ml.training.metrics import leave_one_out, measure
from services.ml.training.release import NAME, Evidence, Splits, assemble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

MODELS = Path(__file__).parents[1] / "models"
REPOSITORY = Path(__file__).parents[3]
SOURCES = ("features", "services/ml/simulation", "services/ml/training")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.ml.training", description=__doc__)
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of the versions")
    parser.add_argument("--version", help="number of the new version; default: the next one")
    parser.add_argument("--check", action="store_true", help="retrain and compare golden outputs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="parallel processes")
    options = parser.parse_args(arguments)
    versions = options.models / NAME
    # The converters call deprecated functions of their dependencies.
    warnings.simplefilter("ignore")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn) as pool:
        if options.check:
            return check(versions / (options.version or str(latest(versions))), pool)
        return train(versions, options.version or str(latest(versions) + 1), pool)


def train(versions: Path, version: str, pool: Executor) -> int:
    """Releases a version. Returns the exit code: 1 if the version exists already."""
    directory = versions / version
    if directory.exists():
        return say(f"{directory} was released before; a version never changes", 1)
    splits = Splits()
    rows = {
        name: build(getattr(splits, name), pool) for name in ("train", "validation", "calibration")
    }
    fitted = fit(rows["train"], rows["validation"], rows["calibration"])
    test = build(splits.test, pool)
    metrics = measure(fitted, test)
    metrics["refused_when_never_seen"] = leave_one_out(
        rows["train"], rows["validation"], rows["calibration"], test
    )
    evidence = Evidence(splits, metrics, code_digest())
    files = assemble(version, fitted, rows["train"], rows["validation"], evidence)
    write_version(directory, files)
    return say(f"released {NAME} {version} in {directory}", 0)


def check(directory: Path, pool: Executor) -> int:
    """Checks that a version is unchanged and reproducible. Returns the exit code."""
    try:
        read_model(directory)
    except ConfigError as error:
        return say(str(error), 1)
    manifest = parse((directory / MANIFEST).read_bytes())
    splits = Splits()
    again = fit(
        build(splits.train, pool), build(splits.validation, pool), build(splits.calibration, pool)
    )
    try:
        answers = run(export(again, len(manifest.features)), manifest.golden_rows)
        manifest.check_golden(*answers, tolerance=REPRODUCTION_TOLERANCE)
    except ValueError as error:
        return say(f"{NAME} {manifest.version} cannot be reproduced: {error}", 1)
    return say(f"{NAME} {manifest.version} is what its seeds and code make", 0)


def latest(versions: Path) -> int:
    """Returns the highest version number, or 0 if there is none."""
    numbers = [int(path.name) for path in versions.glob("*") if path.name.isdecimal()]
    return max(numbers, default=0)


def code_digest() -> str:
    """Returns the SHA-256 of the sources that make a version, in hex."""
    hashed = hashlib.sha256()
    for source in SOURCES:
        for path in sorted((REPOSITORY / source).rglob("*.py")):
            hashed.update(str(path.relative_to(REPOSITORY)).encode() + b"\0")
            hashed.update(path.read_bytes() + b"\0")
    return hashed.hexdigest()


def say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
