"""`anya trust`: read the trust policy as the services do. Needs no running mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from cli.commands.options import JsonOption

app = typer.Typer(help="Trust policy: check it, explain a decision.", no_args_is_help=True)

FileOption: TypeAlias = Annotated[
    Path | None, typer.Option("--file", help="Default: $ANYA_TRUST_FILE, else the repository's.")
]


@app.command("check")
def check_policy(file: FileOption = None, json: JsonOption = False) -> None:
    """Check the policy against the contracts of all services."""
    from cli import screen, trust

    policy = trust.check(file)
    path = str(trust.path_of(file))
    if json:
        screen.emit({"file": path, "digest": policy.digest, "grants": len(policy.grants)})
    else:
        screen.show(f"{path}: {len(policy.grants)} grants, digest {policy.digest}")


@app.command(
    "explain",
    epilog="Example: anya trust explain client bitcoin anya.bitcoin.v1.ChainService/GetBlock",
)
def explain_decision(
    caller: Annotated[str, typer.Argument(help="SPIFFE ID, or the name of a principal: client")],
    service: Annotated[str, typer.Argument(help="The service called: bitcoin")],
    method: Annotated[str, typer.Argument(help="anya.bitcoin.v1.ChainService/GetBlock")],
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Show if a call is allowed, and within which bounds. Exit code 3 if it is denied."""
    from cli import errors, screen, trust

    policy = trust.check(file)
    spiffe_id = next((name for name, kind in policy.principals.items() if kind == caller), caller)
    decision = policy.decide(spiffe_id, service, method)
    if json:
        bounds = trust.document(decision)
        screen.emit({"allowed": decision.allowed, "explanation": decision.explanation, **bounds})
    else:
        screen.show(policy.explain(spiffe_id, service, method))
        for name, value in trust.document(decision).items():
            screen.show(f"  {name}: {value}")
    if not decision.allowed:
        raise typer.Exit(errors.REFUSED)
