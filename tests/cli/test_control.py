"""The control socket: one request, one reply, only for the owner of the home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cli.errors import CommandError
from cli.home import Home
from cli.supervisor import control

if TYPE_CHECKING:
    from pathlib import Path


async def answer(request: dict[str, Any]) -> Any:
    if request["command"] == "refuse":
        raise CommandError("not today", reason="TUESDAY", remedy="come back tomorrow")
    return {"request": request}


@pytest.fixture(params=["short", "x" * 120], ids=["short path", "long path"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    home = Home(tmp_path / request.param)
    home.make()
    return home


async def test_request_gets_its_reply(home: Home) -> None:
    async with control.serving(home, answer):
        reply = await control.request(home, "restart", service="ml", failpoints="")

    assert reply == {"request": {"command": "restart", "service": "ml", "failpoints": ""}}


async def test_refusal_keeps_its_text_reason_and_remedy(home: Home) -> None:
    async with control.serving(home, answer):
        with pytest.raises(CommandError, match="not today") as refusal:
            await control.request(home, "refuse")

    assert (refusal.value.reason, refusal.value.remedy) == ("TUESDAY", "come back tomorrow")


async def test_missing_supervisor_is_reported_with_the_remedy_to_start_one(home: Home) -> None:
    with pytest.raises(CommandError, match="no mesh runs") as refusal:
        await control.request(home, "status")

    assert "anya up" in refusal.value.remedy


async def test_only_the_owner_can_open_the_socket(home: Home) -> None:
    async with control.serving(home, answer):
        assert (home.path / "control.sock").stat().st_mode & 0o777 == 0o600


async def test_socket_of_a_killed_supervisor_is_replaced(home: Home) -> None:
    (home.path / "control.sock").write_text("left behind")

    async with control.serving(home, answer):
        assert await control.request(home, "status")
