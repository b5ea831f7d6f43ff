"""The home: private, and locked by one supervisor at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cli.errors import CommandError
from cli.home import Home, write_private

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.make()
    return home


def test_folders_of_the_home_are_private(home: Home) -> None:
    folders = [home.path, home.pki, home.client, home.service("bitcoin")]

    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_folder_with_foreign_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    tmp_path.chmod(0o755)

    with pytest.raises(CommandError, match="not a mesh's") as refusal:
        Home(tmp_path).make()

    assert refusal.value.reason == "HOME_UNUSABLE"
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_home_that_cannot_be_created_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(CommandError, match="file") as refusal:
        Home(tmp_path / "file").make()

    assert refusal.value.reason == "HOME_UNUSABLE"


def test_second_supervisor_is_refused_with_the_pid_of_the_first(home: Home) -> None:
    with home.lock(), pytest.raises(CommandError, match=str(os.getpid())) as refusal, home.lock():
        pass

    assert refusal.value.reason == "HOME_IN_USE"


def test_released_home_can_be_locked_again(home: Home) -> None:
    with home.lock():
        pass

    with home.lock() as descriptor:
        assert os.pread(descriptor, 32, 0).decode() == str(os.getpid())


def test_home_stays_locked_until_the_last_process_of_a_killed_supervisor_ends(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_eof = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with home.lock() as descriptor:
        survivor = subprocess.Popen(until_eof, stdin=subprocess.PIPE, pass_fds=[descriptor])
        home.lock_file.write_text("")  # the killed supervisor has left no pid
    # The survivor ends during the first wait for the lock.
    monkeypatch.setattr(time, "sleep", lambda _: survivor.communicate())

    with home.lock():
        assert survivor.returncode == 0


def test_second_demo_on_a_home_is_refused(home: Home) -> None:
    with home.stage(), pytest.raises(CommandError, match="plays on") as refusal, home.stage():
        pass

    assert refusal.value.reason == "DEMO_RUNNING"
    with home.stage():  # the first demo has ended
        pass
    assert (home.client / "demo.lock").stat().st_mode & 0o077 == 0


def test_private_file_is_replaced_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")

    write_private(path, b"new")

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.iterdir()] == [path]
