"""docs/operations.md: its settings, commands, privilege and figures match the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from anya.orchestrator.v1 import workflow_pb2 as pb
from cli.commands.run import app
from mesh.rpc import contracts
from mesh.settings import ConfigError
from services.bitcoin.config import BitcoinConfig
from services.orchestrator.config import OrchestratorConfig
from services.orchestrator.retention import REST_FACTOR
from services.orchestrator.store.run_query import MAX_SCANNED

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ENVIRONMENT = {"ANYA_PEERS": "bitcoin=h:1,ml=h:2,web5=h:3"}
SETTINGS = dict(re.findall(r"^\| `(ANYA_\w+)` \| (\d+) \|", DOCUMENT, re.MULTILINE))
COMMANDS = re.findall(r"^anya run list .+$", DOCUMENT, re.MULTILINE)


def test_retention_defaults_match_the_document() -> None:
    config = OrchestratorConfig.from_environment(ENVIRONMENT)

    assert {
        "ANYA_ERASE_PII_DAYS": str(int(config.erase_pii_days)),
        "ANYA_RETAIN_DAYS": str(int(config.retain_days)),
    } == SETTINGS


@pytest.mark.parametrize("name", SETTINGS)
def test_days_may_be_decimal_or_zero(name: str) -> None:
    for text, days in (("0", 0.0), ("0.5", 0.5), ("36500", 36500.0)):
        config = OrchestratorConfig.from_environment({**ENVIRONMENT, name: text})

        assert days in (config.erase_pii_days, config.retain_days)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "week", "36501"])
@pytest.mark.parametrize("name", SETTINGS)
def test_invalid_days_are_refused_at_the_start(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        OrchestratorConfig.from_environment({**ENVIRONMENT, name: text})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_document_parse(command: str) -> None:
    words = shlex.split(command)[3:]

    listing = get_command(app).commands["list"]  # type: ignore[attr-defined]
    context = listing.make_context("list", words)

    assert {name for name, value in context.params.items() if value} >= {
        word[2:].replace("-", "_").removesuffix("_") for word in words if word.startswith("--")
    } - {"json"}


def test_document_names_the_privilege_and_the_figures() -> None:
    method = pb.DESCRIPTOR.services_by_name["WorkflowService"].methods_by_name["EraseRun"]

    assert f"`{contracts.operation(method).privilege}`" in DOCUMENT
    assert f"{MAX_SCANNED:,} runs" in DOCUMENT
    assert REST_FACTOR == 4
    assert len(COMMANDS) == 4


def test_document_names_every_setting() -> None:
    code = [path for name in ("mesh", "services", "cli") for path in (ROOT / name).rglob("*.py")]
    read = {
        name for path in code for name in re.findall(r"\bANYA_[A-Z_]+[A-Z]\b", path.read_text())
    }

    assert {name for name in read if name not in DOCUMENT} == set()
    assert set(re.findall(r"\bANYA_[A-Z_]+[A-Z]\b", DOCUMENT)) <= read


@pytest.mark.parametrize(
    "name", ["ANYA_LEASE_SECONDS", "ANYA_MAX_RUNS", "ANYA_MAX_CONCURRENT_STEPS"]
)
def test_orchestrator_defaults_match_the_document(name: str) -> None:
    [default] = re.findall(rf"^\| `{name}` \| orchestrator \| (\d+) \|", DOCUMENT, re.MULTILINE)

    given = OrchestratorConfig.from_environment({**ENVIRONMENT, name: default})

    assert given == OrchestratorConfig.from_environment(ENVIRONMENT)


def test_bitcoin_defaults_match_the_document() -> None:
    defaults = re.findall(r"^\| `(ANYA_\w+)` \| bitcoin \| (\d+) \|", DOCUMENT, re.MULTILINE)

    assert BitcoinConfig.from_environment(dict(defaults)) == BitcoinConfig.from_environment({})
    assert len(defaults) == 3
