"""Commands that need no running mesh, and the errors of the others without one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import run
from cli.errors import from_rpc
from mesh.errors import FailedPrecondition, PermissionDenied, Reason
from mesh.rpc.interceptors.errors import to_rpc_error
from mesh.security.audit import AuditEntry, open_audit

ROOT = Path(__file__).parents[2]
DEFINITION = ROOT / "services/orchestrator/workflows/verified_payment.json"
SEND = "anya.bitcoin.v1.WalletService/SendPayment"


def documents(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_valid_definition_passes_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["workflow", "check", str(DEFINITION), "--json"]) == 0
    assert documents(capsys) == [{"file": str(DEFINITION), "ok": True, "problems": []}]


def test_every_problem_of_a_definition_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "invalid.json"
    file.write_text(
        DEFINITION.read_text().replace("steps.verify_sender.sender_v", "steps.unknown.v")
    )

    code = run(["workflow", "check", str(file), "--json"])

    (document,) = documents(capsys)
    assert code == 1
    assert not document["ok"]
    assert document["problems"]
    assert {problem["line"] > 1 for problem in document["problems"]} == {True}


@pytest.mark.parametrize("arguments", [["check"], ["check", str(DEFINITION), "--with"]], ids=len)
def test_definition_that_is_not_utf8_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    file = tmp_path / "picture.yaml"
    file.write_bytes(b"id: a\xff")

    assert run(["workflow", *arguments, str(file)]) == 1
    assert f"{file} is not UTF-8: byte 6" in capsys.readouterr().err


def test_built_in_trust_policy_passes_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trust", "check", "--json"]) == 0
    assert documents(capsys)[0]["grants"] > 0


def test_policy_with_an_unknown_method_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "deploy/k8s/base/trust.yaml").read_text()
    file = tmp_path / "trust.yaml"
    file.write_text(text.replace("ChainService/GetBlock:", "ChainService/GetBlocks:"))

    code = run(["trust", "check", "--file", str(file), "--json"])

    error = json.loads(capsys.readouterr().err)["error"]
    assert code == 1
    assert error["reason"] == "POLICY_INVALID"
    assert "GetBlocks" in error["message"]


def test_trust_explain_reports_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["trust", "explain", "client", "bitcoin", SEND])

    assert code == 3
    assert capsys.readouterr().out.startswith("deny: client -> bitcoin")


def test_trust_explain_reports_the_limits_of_a_grant(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["trust", "explain", "orchestrator", "bitcoin", SEND, "--json"])

    (document,) = documents(capsys)
    assert code == 0
    assert document["allowed"]
    assert document["required_attestations"] == ["address_link", "identity", "risk"]
    assert document["minimum_assurance"] == "substantial"
    assert document["condition"] == (
        "attestation.risk.decision == 'accept' && attestation.risk.score < 0.7"
    )


@pytest.fixture
def audited(tmp_path: Path) -> Path:
    """A home with one audit log of three lines."""
    entry = AuditEntry(
        time="2026-11-23T12:00:00Z",
        trace_id="",
        caller="spiffe://anya.internal/client/operator",
        method=SEND,
        decision="deny",
        rule="client -> bitcoin does not grant it",
        policy="",
        status="PERMISSION_DENIED",
    )
    with open_audit(tmp_path / "audit" / "bitcoin.jsonl") as audit:
        for _ in range(3):
            audit.record(entry)
    return tmp_path


def test_unbroken_audit_log_is_verified(audited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", "verify", "--home", str(audited), "--json"]) == 0

    (document,) = documents(capsys)
    assert document["ok"]
    assert [log["lines"] for log in document["logs"]] == [3]


def test_altered_audit_log_is_reported_with_its_line(
    audited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = audited / "audit" / "bitcoin.jsonl"
    path.write_text(
        path.read_text().replace('"deny"', '"allow"', 2).replace('"allow"', '"deny"', 1)
    )

    code = run(["audit", "verify", "--home", str(audited)])

    assert code == 1
    assert f"{path}: line 2" in capsys.readouterr().out


@pytest.fixture
def mainnet_block() -> Path:
    folder = os.environ.get("ANYA_TEST_DATA")
    path = Path(folder or "nowhere") / "mainnet-block-413567.raw"
    if not path.exists():
        pytest.skip("ANYA_TEST_DATA does not name a folder with mainnet-block-413567.raw")
    return path


def test_raw_block_is_summarised(mainnet_block: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["block", "inspect", str(mainnet_block), "--json"]) == 0

    (document,) = documents(capsys)
    assert document["block_hash"].startswith("0000000000000000025aff8b")
    assert (document["transactions"], document["outputs"]) == (1557, 3581)
    assert (document["inputs"], document["inputs_known"]) == (4887, 287)
    assert document["summary"]["fee_sat"]["statuses"]["UNAVAILABLE"] == 1301
    assert document["seconds"] > 0


def test_block_file_may_be_hex(
    mainnet_block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "block.hex"
    file.write_text(mainnet_block.read_bytes().hex() + "\n")

    assert run(["block", "inspect", str(file), "--json"]) == 0
    assert documents(capsys)[0]["transactions"] == 1557


def test_truncated_block_is_refused(
    mainnet_block: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "truncated.raw"
    file.write_bytes(mainnet_block.read_bytes()[:-1])

    code = run(["block", "inspect", str(file), "--json"])

    captured = capsys.readouterr()
    assert code == 1
    assert captured.out == ""
    assert json.loads(captured.err)["error"]["code"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the block is truncated"),
        (bytes(79), "it does not end within its 79 bytes"),
        (bytes(80) + b"\x01", "the block is truncated"),
        (b"00" * 80, "the block is truncated"),
        (bytes(81), "no transactions at offset 80"),
    ],
    ids=["empty", "cut header", "transaction missing", "hex", "no transactions"],
)
def test_malformed_block_is_refused_with_the_cause(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "block.raw"
    file.write_bytes(content)

    code = run(["block", "inspect", str(file), "--json"])

    error = json.loads(capsys.readouterr().err)["error"]
    assert code == 1
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "BLOCK_MALFORMED")
    assert message in error["message"]


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["run", "list"],
        ["run", "show", "x"],
        ["run", "start", "verified_payment"],
        ["workflow", "list"],
        ["workflow", "register", str(DEFINITION)],
    ],
    ids=" ".join,
)
def test_command_without_a_mesh_names_the_remedy_to_start_one(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run([*command, "--home", str(tmp_path / "home"), "--json"])

    error = json.loads(capsys.readouterr().err)["error"]
    assert code == 1
    assert error["reason"] == "NO_MESH"
    assert "anya up" in error["remedy"]


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "@/nowhere", '{"a": ' + "[" * 24 + "]" * 24 + "}", '{"a": ' + "[" * 100_000],
    ids=["no object", "no JSON", "no such file", "too deep", "far too deep"],
)
def test_input_that_is_no_object_is_a_usage_error(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["run", "start", "x", "--input", text, "--home", str(tmp_path), "--json"])

    assert code == 2
    assert json.loads(capsys.readouterr().err)["error"]["reason"] == "USAGE"


def test_doctor_reports_a_missing_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--home", str(tmp_path / "home"), "--json"])

    (document,) = documents(capsys)
    problems = {check["check"]: check["remedy"] for check in document["checks"] if not check["ok"]}
    assert code == 1
    assert problems.keys() == {"home"}
    assert "anya up" in problems["home"]


def test_service_error_keeps_its_code_and_reason() -> None:
    refusal = FailedPrecondition("the mailbox is full", reason=Reason.MAILBOX_FULL)

    error = from_rpc(to_rpc_error(refusal))

    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "MAILBOX_FULL")
    assert error.message == "the mailbox is full"
    assert error.exit_code == 1


def test_refusal_by_policy_has_exit_code_3() -> None:
    refusal = PermissionDenied("not granted", reason=Reason.PERMISSION_NOT_GRANTED)

    error = from_rpc(to_rpc_error(refusal))

    assert error.exit_code == 3
    assert "trust.yaml" in error.remedy
