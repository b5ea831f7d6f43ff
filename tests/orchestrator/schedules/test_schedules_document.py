"""The commands of docs/schedules.md work: the test executes them in order."""

from __future__ import annotations

import json
import re
import shlex
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

from cli import endpoints
from cli.home import SERVICES, Home
from services.orchestrator.__main__ import orchestrator

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.orchestrator.config import OrchestratorConfig

TEXT = (Path(__file__).parents[3] / "docs" / "schedules.md").read_text()
COMMANDS = re.findall(r"^\$ anya (.+)$", TEXT, re.MULTILINE)
[REPORT] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


async def anya(command: str, folder: Path) -> tuple[int, str, str]:
    """Returns exit code, standard output and standard error of a command."""
    arguments = [*shlex.split(command), "--home", str(folder)]
    child = await create_subprocess_exec(
        sys.executable, "-m", "cli", *arguments, cwd=folder, stdout=PIPE, stderr=PIPE
    )
    out, error = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), error.decode()


async def test_commands_of_the_document_work(
    config: OrchestratorConfig, authority: Authority, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    home.make()
    home.client.mkdir(exist_ok=True)
    home.pki.mkdir(exist_ok=True)
    operator = authority.issue("spiffe://anya.internal/client/operator")
    copyfile(operator.certificate, home.client / "operator.pem")
    copyfile(operator.key, home.client / "operator.key")
    copyfile(operator.ca, home.pki / "ca.pem")
    (home.path / "report.yaml").write_text(REPORT)
    said: dict[str, str] = {}

    async with orchestrator(config) as service:
        endpoint = endpoints.Endpoint(service.port, service.health_port)
        endpoints.write(home, dict.fromkeys(SERVICES, endpoint))
        for command in COMMANDS:
            code, out, error = await anya(command, home.path)
            assert code == 0, f"{command}: {error}"
            said[" ".join(command.split()[:3])] = out
        pays, _, refusal = await anya(
            "schedule create pays verified_payment --every 1h --json", home.path
        )
        wrong, _, usage = await anya(
            "schedule create wrong report --every 1h --zone UTC --json", home.path
        )

    assert len(COMMANDS) == 9
    listed = said["schedule list"]
    assert [line.split()[0] for line in listed.splitlines() if line[0] != " "] == [
        "hourly",
        "mornings",
        "quarter",
    ]
    assert json.loads(said["schedule show mornings"])["cron"]["zone"] == "Europe/Berlin"
    assert "paused" in said["schedule pause hourly"]
    assert "next at" in said["schedule resume hourly"]
    assert "deleted" in said["schedule delete hourly"]
    assert (pays, json.loads(refusal)["error"]["reason"]) == (1, "WORKFLOW_MAKES_PAYMENTS")
    assert (wrong, json.loads(usage)["error"]["reason"]) == (2, "USAGE")
