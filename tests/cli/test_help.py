"""The help: a description of every command, and examples that parse."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

from cli.__main__ import run
from cli.commands import app

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands(command: object, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields the words of every command, and its example."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))
    if words and not hasattr(command, "commands"):
        yield words, getattr(command, "epilog", None) or ""


COMMANDS = dict(commands(get_command(app)))
EXAMPLES = [example.removeprefix("Example: anya ") for example in COMMANDS.values() if example]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_description(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*words, "--help"])

    shown = capsys.readouterr().out
    assert code == 0
    assert f"anya {' '.join(words)}" in shown
    assert ". " in shown or shown.count(".") > 1


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command: Any = get_command(app)
    words = shlex.split(example)
    monkeypatch.chdir(tmp_path)
    for file in (word for word in words if Path(word).suffix in (".yaml", ".bin")):
        Path(file).touch()

    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]

    assert command.make_context("example", words).params


def test_at_least_ten_commands_have_an_example() -> None:
    assert len(EXAMPLES) >= 10
