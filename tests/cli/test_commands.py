"""The command line: one document on stdout, one error on stderr, and the exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import run
from cli.home import Home
from cli.spans.store import SpanStore
from tests.cli.tracing import TRACE, span


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with traces and without a running mesh."""
    home = Home(tmp_path / "home")
    home.make()
    with SpanStore(home.traces) as spans:
        spans.add([span("a"), span("b", "a", service="bitcoin")])
    return home


def error(text: str) -> dict[str, Any]:
    document: dict[str, dict[str, Any]] = json.loads(text)
    assert document.keys() == {"error"}
    assert document["error"].keys() == {"code", "reason", "message", "remedy"}
    return document["error"]


def test_json_result_is_one_document(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["trace", "show", TRACE[:6], "--json", "--home", str(home.path)])

    shown = json.loads(capsys.readouterr().out)
    assert code == 0
    assert shown["trace_id"] == TRACE
    assert shown["services"] == ["bitcoin", "orchestrator"]


def test_trace_list_names_each_trace(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["trace", "list", "--home", str(home.path)])

    assert code == 0
    assert TRACE in capsys.readouterr().out


def test_json_error_is_one_object_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["trace", "list", "--json", "--home", str(tmp_path)])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert error(captured.err)["reason"] == "NO_TRACES"


def test_plain_error_is_one_line_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["trace", "list", "--home", str(tmp_path)])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.err.count("\n") == 1
    assert "anya demo" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["nonsense"], id="no such command"),
        pytest.param(["trace", "list", "--limit", "0"], id="out of range"),
        pytest.param(["trace", "show"], id="an argument missing"),
        pytest.param(["up", "--mine", "sometimes"], id="not a choice"),
    ],
)
def test_mistyped_command_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*arguments, "--json"])

    assert code == 2
    assert error(capsys.readouterr().err)["reason"] == "USAGE"


@pytest.mark.parametrize("arguments", [[], ["run"], ["trace"]], ids=["anya", "run", "trace"])
def test_missing_command_prints_only_the_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(arguments)

    captured = capsys.readouterr()
    assert code == 2
    assert "Usage: anya" in captured.out
    assert captured.err == ""


def test_defect_prints_no_traceback_and_writes_a_report(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("cli.spans.store.newest")

    code = run(["trace", "list", "--home", str(home.path)])

    shown = capsys.readouterr().err
    assert code == 1
    assert shown.startswith("anya: anya has a defect: AttributeError")
    report = re.search(r"report it with (\S+)", shown)
    assert report
    assert "Traceback" in Path(report[1]).read_text()


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"anya \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("library", ["grpc", "cryptography", "numpy", "rich", "asyncio"])
def test_start_imports_no_large_library(library: str) -> None:
    program = f"import sys, cli.__main__; sys.exit({library!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_closed_stdout_is_no_error(home: Home) -> None:
    command = [sys.executable, "-m", "cli", "trace", "list", "--json", "--home", str(home.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.wait()

        assert process.stderr.read() == b""
