"""`anya up`: four processes, supervised, restarted and drained, and the errors of its start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.home import SERVICES
from cli.spans import store
from cli.spans.receiver import receiving
from mesh.testing import eventually
from tests.scenarios.meshes import Mesh, anya, up

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with up(tmp_path_factory.mktemp("mesh") / "home") as mesh:
        yield mesh


def test_ready_line_names_the_four_services(mesh: Mesh) -> None:
    assert mesh.ready["services"].keys() == set(SERVICES)


def test_endpoints_file_has_all_services(mesh: Mesh) -> None:
    document = json.loads((mesh.home / "endpoints.json").read_text())

    addresses = {name: one["address"] for name, one in document["services"].items()}
    assert addresses == mesh.ready["services"]
    for file in ("ca", "client_cert", "client_key"):
        assert Path(document[file]).read_text().startswith("-----BEGIN")


def test_files_of_the_home_are_private(mesh: Mesh) -> None:
    found = [path for path in mesh.home.rglob("*") if path.stat().st_mode & 0o077]

    assert not found


def test_status_shows_a_process_for_each_service(mesh: Mesh) -> None:
    services = mesh.anya("status", "--json").document["services"]

    assert {service["state"] for service in services.values()} == {"ready"}
    assert len({service["pid"] for service in services.values()}) == len(SERVICES)


def test_doctor_reports_no_problem(mesh: Mesh) -> None:
    result = mesh.anya("doctor", "--json")

    problems = [check for check in result.document["checks"] if not check["ok"]]
    assert problems == []
    assert result.code == 0


def test_verified_payment_workflow_is_registered(mesh: Mesh) -> None:
    workflows = mesh.anya("workflow", "list", "--json").document["workflows"]

    assert "verified_payment" in {workflow["workflow_id"] for workflow in workflows}


def test_second_mesh_on_the_same_home_is_refused(mesh: Mesh) -> None:
    result = anya("up", "--json", home=mesh.home)

    assert result.code == 1
    assert result.error["reason"] == "HOME_IN_USE"
    assert str(mesh.process.pid) in result.error["message"]


def test_unknown_run_is_an_error_with_a_code(mesh: Mesh) -> None:
    result = mesh.anya("run", "show", "no-such-run", "--json")

    assert result.code == 1
    assert result.error["code"] == "NOT_FOUND"


def test_run_command_with_wait_prints_the_outcome(mesh: Mesh, tmp_path: Path) -> None:
    greet = '{"id": "greet", "name": "Greet", "steps": [{"id": "one", "set": {"word": "hello"}}]}'
    (tmp_path / "greet.json").write_text(greet)
    mesh.anya("workflow", "register", str(tmp_path / "greet.json"))

    result = mesh.anya("run", "start", "greet", "--wait", "--json")

    assert result.code == 0
    assert result.document["status"] == "succeeded"
    assert result.document["steps"][0]["output"]["word"] == "hello"


async def test_killed_service_is_restarted(mesh: Mesh) -> None:
    def web5() -> dict[str, object]:
        service: dict[str, object] = mesh.anya("status", "--json").document["services"]["web5"]
        return service

    before = web5()
    os.kill(int(str(before["pid"])), signal.SIGKILL)

    await eventually(lambda: web5()["restarts"] == 1 and web5()["state"] == "ready", within=20)
    assert web5()["pid"] != before["pid"]


async def test_traces_go_to_the_collector_of_the_user(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    async with receiving(theirs) as url:
        with up(tmp_path / "home", extra={"OTEL_EXPORTER_OTLP_ENDPOINT": url}) as mesh:
            await asyncio.to_thread(mesh.anya, "run", "start", "link_address", "--json")
            await eventually(lambda: len(store.newest(theirs, limit=9)) > 0)

    assert not (tmp_path / "home" / "traces.db").exists()


def test_variable_of_traces_that_is_invalid_is_one_line(tmp_path: Path) -> None:
    invalid = {"OTEL_TRACES_SAMPLER": "sometimes"}

    result = anya("up", "--json", home=tmp_path / "home", extra=invalid)

    assert result.code == 1
    assert result.error["reason"] == "SETTING_INVALID"
    assert result.error["message"].startswith("OTEL_TRACES_SAMPLER is 'sometimes': set it to")


async def test_exporter_none_keeps_no_traces(tmp_path: Path) -> None:
    with up(tmp_path / "home", extra={"OTEL_TRACES_EXPORTER": "none"}) as mesh:
        result = await asyncio.to_thread(mesh.anya, "workflow", "list", "--json")

    assert result.code == 0
    assert not (tmp_path / "home" / "traces.db").exists()


def test_sigterm_drains_the_mesh_and_a_restart_keeps_the_ports(tmp_path: Path) -> None:
    with up(tmp_path / "home") as first:
        code = first.stop()
    with up(tmp_path / "home") as second:
        pass

    assert code == 0
    assert second.ready["services"] == first.ready["services"]


def test_error_names_a_port_in_use(tmp_path: Path) -> None:
    with up(tmp_path / "home") as mesh:
        port = int(mesh.ready["services"]["ml"].rpartition(":")[2])
        mesh.stop()
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()

        result = anya("up", "--json", home=tmp_path / "home")

    assert result.code == 1
    assert result.error["reason"] == "PORT_TAKEN"
    assert f"port {port} of ml" in result.error["message"]
