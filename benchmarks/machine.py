"""The machine and the Python build that a measurement was made with, in words."""

from __future__ import annotations

import os
import platform
import subprocess
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = ("grpcio", "protobuf", "uvloop", "onnxruntime", "py-bitcoinkernel", "cryptography")


def describe() -> dict[str, str]:
    """Returns what a reader needs to compare figures, by label. The load is that of this moment."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit(),
        "processor": f"{_processor()}, {os.cpu_count()} cores, {platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, {python_build()}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "load at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def python_build() -> str:
    """Returns the compiler of this Python, and if it was built with PGO and LTO."""
    return f"{platform.python_compiler()}, {optimizations(sysconfig.get_config_vars())}"


def optimizations(variables: dict[str, object]) -> str:
    """Returns which of PGO and LTO a build has, from the variables of sysconfig."""
    arguments = str(variables.get("CONFIG_ARGS") or "")
    flags = " ".join(str(variables.get(name) or "") for name in ("PY_CFLAGS", "PY_CORE_CFLAGS"))
    pgo = "--enable-optimizations" in arguments or "-fprofile-use" in flags
    lto = "--with-lto" in arguments.replace("--with-lto=no", "") or "-flto" in flags
    return f"{'with' if pgo else 'without'} PGO, {'with' if lto else 'without'} LTO"


def commit() -> str:
    """Returns the commit that is checked out, and if its files were changed since."""
    found = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return f"{found} with changes" if changed else found


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603  (ours)
        ["git", *arguments],  # noqa: S607  (the one of the user)
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
