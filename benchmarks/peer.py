"""Peers live in environments of their own, so that nothing of theirs enters ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class PeerMissing(Exception):  # noqa: N818  (a state, as in mesh.errors)
    """The peer could not be installed here; the text says why."""


def requirement(name: str) -> str:
    """Returns the version that benchmarks/peers/NAME.txt pins, as ``"package version"``."""
    return requirements(name)[0]


def requirements(name: str) -> list[str]:
    """Returns all versions that benchmarks/peers/NAME.txt pins, as ``"package version"`` each."""
    return [pin.replace("==", " ") for pin in _pins(name).read_text().split()]


def package(name: str) -> str:
    """Returns the package that benchmarks/peers/NAME.npm pins, as npm writes it."""
    return (ROOT / "benchmarks" / "peers" / f"{name}.npm").read_text().strip()


def python(name: str) -> Path:
    """Returns the interpreter of .venv-peers/NAME, after installing benchmarks/peers/NAME.txt."""
    folder = ROOT / ".venv-peers" / name
    interpreter = folder / "bin" / "python"
    installed = folder / "installed.txt"
    pins = _pins(name).read_text()
    if installed.exists() and installed.read_text() == pins:
        return interpreter
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    _run(str(interpreter), "-m", "pip", "install", "-q", "-r", str(_pins(name)))
    installed.write_text(pins)
    return interpreter


def node(name: str) -> Path:
    """Returns the node_modules of benchmarks/peers/NAME.npm, installed without scripts."""
    folder = ROOT / ".venv-peers" / f"{name}-node"
    installed = folder / "installed.txt"
    pin = package(name)
    if not installed.exists() or installed.read_text() != pin:
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund")
        _run("npm", "install", *quiet, "--prefix", str(folder), pin)
        installed.write_text(pin)
    return folder / "node_modules"


def _pins(name: str) -> Path:
    return ROOT / "benchmarks" / "peers" / f"{name}.txt"


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (ours)
    except FileNotFoundError:
        raise PeerMissing(f"{command[0]} is not installed") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise PeerMissing(f"{Path(command[-1]).name}: {lines[-1] if lines else 'no reason given'}")
