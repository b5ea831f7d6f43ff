"""Unusable and damaged homes: a command prints one line of error and changes nothing."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from anya.bitcoin.v1 import chain_pb2, regtest_pb2
from anya.bitcoin.v1.chain_pb2_grpc import ChainServiceStub
from anya.bitcoin.v1.regtest_pb2_grpc import RegtestServiceStub
from cli.connection import connect
from cli.home import Home
from tests.scenarios.meshes import anya, up

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk"
PAY = ("pay", "--from", "payer", "--to", ADDRESS, "--amount-sat")

NEED_A_MESH = [
    ("status",),
    ("run", "list"),
    ("run", "watch", "x"),
    ("workflow", "list"),
    (*PAY, "1000"),
]


@pytest.mark.parametrize("command", NEED_A_MESH, ids=" ".join)
def test_command_without_a_mesh_says_how_to_start_one(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    for home in (tmp_path / "nowhere", tmp_path / "file", tmp_path / "file" / "below"):
        result = anya(*command, "--json", home=home)

        assert result.code == 1
        assert result.out == ""
        assert result.error["reason"] == "NO_MESH"
        assert "anya up" in result.error["remedy"]


def test_error_names_a_home_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        result = anya("up", "--json", home=home)

        assert result.code == 1
        assert result.error["reason"] == "HOME_UNUSABLE"
        assert str(home) in result.error["message"]
        assert "--home" in result.error["remedy"]


@pytest.mark.parametrize("command", [("trace", "list"), ("trace", "show", "ab"), ("up",)])
def test_error_names_damaged_traces_and_leaves_them_unchanged(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    traces = tmp_path / "traces.db"
    traces.write_text("certainly no database " * 100)
    before = traces.read_bytes()

    result = anya(*command, "--json", home=tmp_path)

    assert result.code == 1
    assert result.error["reason"] == "TRACES_DAMAGED"
    assert str(traces) in result.error["message"]
    assert traces.read_bytes() == before


def test_error_names_an_unreadable_file(tmp_path: Path) -> None:
    file = tmp_path / "audit/bitcoin.jsonl"
    file.mkdir(parents=True)

    result = anya("audit", "verify", "--json", home=tmp_path)

    assert result.code == 1
    assert result.error["reason"] == "FILE_UNUSABLE"
    assert str(file) in result.error["message"]


@pytest.mark.parametrize("amount", ["0", "-1", "2100000000000001", "99999999999999999999", "1.5"])
def test_amount_out_of_range_is_a_usage_error(amount: str, tmp_path: Path) -> None:
    result = anya(*PAY, amount, "--json", home=tmp_path)

    assert result.code == 2
    assert result.error["reason"] == "USAGE"
    assert "--amount-sat" in result.error["message"]


async def test_mesh_runs_in_a_folder_with_a_long_name_and_spaces(tmp_path: Path) -> None:
    home = tmp_path / ("a folder with spaces " + "x" * 120)

    with up(home) as mesh:
        status = mesh.anya("status", "--json")

    assert status.code == 0, status.err
    assert {service["state"] for service in status.document["services"].values()} == {"ready"}


async def test_lost_block_prevents_the_start_and_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with up(home, "--mine", "manual") as mesh:
        async with connect(Home(home)) as channels:
            regtest = RegtestServiceStub(channels["bitcoin"])
            await regtest.MineBlocks(
                regtest_pb2.MineBlocksRequest(request_id=str(uuid.uuid4()), count=5)
            )
        mesh.stop()
    damage(home)
    before = block_log(home)

    refused = anya("up", "--json", home=home)
    unchanged = block_log(home)
    with up(home, "--mine", "manual", extra={"ANYA_BLOCK_LOG": "truncate"}):
        async with connect(Home(home)) as channels:
            chain = ChainServiceStub(channels["bitcoin"])
            info = await chain.GetChainInfo(chain_pb2.GetChainInfoRequest())

    assert refused.code == 1
    assert refused.error["reason"] == "SERVICE_DOWN"
    assert "bitcoin: the block log has lost block" in refused.error["message"]
    assert "ANYA_BLOCK_LOG=truncate" in refused.error["message"]
    assert unchanged == before
    assert info.height == 4


def damage(home: Path) -> None:
    """Truncates the last block of the block log, and removes its copy in the kernel."""
    with closing(sqlite3.connect(home / "bitcoin/bitcoin.db")) as database, database:
        database.execute("UPDATE block_log SET raw = substr(raw, 1, 100) WHERE sequence = 5")
    for path in (home / "bitcoin/kernel").rglob("*"):
        if path.is_file():
            path.unlink()


def block_log(home: Path) -> list[tuple[int, bytes, bytes]]:
    with closing(sqlite3.connect(home / "bitcoin/bitcoin.db")) as database:
        return database.execute("SELECT * FROM block_log ORDER BY sequence").fetchall()
