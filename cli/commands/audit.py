"""`anya audit`: whether the audit logs are as they were written. Needs no running mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.commands.options import HomeOption, JsonOption

app = typer.Typer(help="Audit logs: verify.", no_args_is_help=True)


@app.command("verify")
def verify_chains(
    files: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Default: every log of the home.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Verify the hash chain of each log. Exit code 1 if one is broken."""
    from cli import errors, screen
    from cli.home import Home
    from mesh.security.audit import AuditError, verify

    logs = files or sorted(Home.of(home).audit.glob("*.jsonl"))
    if not logs:
        raise errors.CommandError(
            f"there are no audit logs in {Home.of(home).audit}",
            code="NOT_FOUND",
            reason="NO_AUDIT_LOGS",
            remedy=errors.START_THE_MESH,
        )
    findings = []
    for path in logs:
        try:
            chain = verify(path)
        except AuditError as error:
            findings.append({"file": str(path), "ok": False, "problem": str(error)})
        else:
            whole = {"file": str(path), "ok": True, "lines": chain.lines, "last": chain.last}
            findings.append(whole)
    if json:
        screen.emit({"ok": all(finding["ok"] for finding in findings), "logs": findings})
    else:
        for finding in findings:
            if finding["ok"]:
                line = f"ok       {finding['file']}: {finding['lines']} lines to {finding['last']}"
            else:
                line = f"problem  {finding['problem']}"
            screen.show(line)
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(errors.FAILED)
