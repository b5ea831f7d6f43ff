"""The trust policy that the services of this machine would start with, read as they read it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import CommandError
from mesh.config import TRUST_FILE
from mesh.rpc import contracts
from mesh.security.trust import PolicyError, parse

if TYPE_CHECKING:
    from mesh.security.trust import TrustDecision, TrustPolicy

VARIABLE = "ANYA_TRUST_FILE"


def path_of(file: Path | None) -> Path:
    """Returns the file asked for, else that of the environment, else the repository's."""
    return file or Path(os.environ.get(VARIABLE) or TRUST_FILE)


def check(file: Path | None = None) -> TrustPolicy:
    """Reads the policy and checks it against all contracts. Raises CommandError if invalid."""
    path = path_of(file)
    try:
        policy = parse(path.read_text(encoding="utf-8"), contracts.all_privileges())
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"{path} cannot be read: {error}",
            code="NOT_FOUND",
            reason="TRUST_FILE_MISSING",
            remedy=f"name another file, or set {VARIABLE}",
        ) from None
    except PolicyError as error:
        raise CommandError(
            f"{path}: {error}",
            code="INVALID_ARGUMENT",
            reason="POLICY_INVALID",
            remedy="correct it: no service starts with it, and none reloads it",
        ) from None
    return policy


def document(decision: TrustDecision) -> dict[str, Any]:
    """Returns the bounds of an allowed call, or {} for a denied one."""
    if decision.grant is None:
        return {}
    grant, bounds = decision.grant, decision.grant.bounds
    crossing: dict[str, Any] = {
        "privilege": grant.privilege,
        "max_class": grant.max_class.name.lower(),
    }
    if bounds.run_privileges is not None:
        crossing["run_privileges"] = sorted(bounds.run_privileges)
    if not grant.spends:
        return crossing
    return {
        **crossing,
        "max_amount_sat": bounds.max_amount_sat,
        "daily_amount_sat": bounds.daily_amount_sat,
        "required_attestations": sorted(bounds.required_attestations),
        "minimum_assurance": bounds.minimum_assurance,
        "condition": bounds.condition.text if bounds.condition else None,
    }
