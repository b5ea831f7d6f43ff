"""The control socket: one question, one answer, and only for the owner of the home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cli.errors import CommandError
from cli.home import Home
from cli.supervisor import control

if TYPE_CHECKING:
    from pathlib import Path


async def answer(asked: dict[str, Any]) -> Any:
    if asked["command"] == "refuse":
        raise CommandError("not today", reason="TUESDAY", remedy="come back tomorrow")
    return {"asked": asked}


@pytest.fixture(params=["short", "x" * 120], ids=["short path", "long path"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    home = Home(tmp_path / request.param)
    home.make()
    return home


async def test_a_question_gets_its_answer(home: Home) -> None:
    async with control.serving(home, answer):
        reply = await control.request(home, "restart", service="ml", failpoints="")

    assert reply == {"asked": {"command": "restart", "service": "ml", "failpoints": ""}}


async def test_a_refusal_arrives_as_it_was_raised(home: Home) -> None:
    async with control.serving(home, answer):
        with pytest.raises(CommandError, match="not today") as refusal:
            await control.request(home, "refuse")

    assert (refusal.value.reason, refusal.value.remedy) == ("TUESDAY", "come back tomorrow")


async def test_without_a_supervisor_the_remedy_is_to_start_one(home: Home) -> None:
    with pytest.raises(CommandError, match="no mesh runs") as refusal:
        await control.request(home, "status")

    assert "anya up" in refusal.value.remedy


async def test_only_the_owner_may_connect(home: Home) -> None:
    async with control.serving(home, answer):
        assert (home.path / "control.sock").stat().st_mode & 0o777 == 0o600


async def test_a_socket_that_a_killed_supervisor_left_is_replaced(home: Home) -> None:
    (home.path / "control.sock").write_text("left behind")

    async with control.serving(home, answer):
        assert await control.request(home, "status")
