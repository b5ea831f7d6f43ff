"""A whole mesh for a scenario, run by the `anya` command in separate processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STOP_WITHIN_S = 60


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = json.loads(self.err)["error"]
        return error


@dataclass(frozen=True, slots=True)
class Mesh:
    home: Path
    ready: dict[str, Any]
    process: subprocess.Popen[str]

    def anya(self, *arguments: str) -> Result:
        return anya(*arguments, home=self.home)

    def stop(self) -> int:
        """Drains and stops the mesh. Returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_WITHIN_S)


def anya(
    *arguments: str,
    home: Path,
    timeout: float = 120,
    extra: Mapping[str, str] | None = None,
) -> Result:
    """Runs a command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *arguments, "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=environment(extra),
    )
    return Result(done.returncode, done.stdout, done.stderr)


@contextmanager
def up(home: Path, *arguments: str, extra: Mapping[str, str] | None = None) -> Iterator[Mesh]:
    """Runs `anya up` for the block; enters it after the ready line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "up", "--home", str(home), "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(extra),
    )
    assert process.stdout
    assert process.stderr
    with process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield Mesh(home, json.loads(line)["ready"], process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(STOP_WITHIN_S)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment without variables that change the behaviour of `anya`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ANYA_", "OTEL_")) or name == "ANYA_PORT_RANGE"
    }
    return {**kept, "NO_COLOR": "1", **(extra or {})}
