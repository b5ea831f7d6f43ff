"""Errors of the command line: a cause, a remedy and an exit code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from mesh.errors import MeshError

OK = 0
FAILED = 1
USAGE = 2
REFUSED = 3  # by a policy or a condition: nothing is broken
INTERRUPTED = 130

START_THE_MESH = "start the mesh with: anya up"

# What to do about a refusal, by its reason or else by its code.
REMEDIES = {
    "CERTIFICATE_EXPIRED": "renew the certificates: stop the mesh, then anya up",
    "CERTIFICATE_REVOKED": "issue another certificate; revoked in trust.yaml names this one",
    "IDENTITY_MISSING": "renew the certificates: stop the mesh, then anya up",
    "PERMISSION_NOT_GRANTED": "grant the method in trust.yaml, or use another certificate",
    "OVERLOADED": "the service is busy: try again",
    "BREAKER_OPEN": "its target keeps failing: anya status, then the service's log",
    "PEER_UNAVAILABLE": "repeat it; anya status shows which service does not answer",
    "INSUFFICIENT_FUNDS": "pay less, or fund the address and mine a block",
    "RUN_DELETED": "of a payment, anya payment show still tells what bitcoin knows",
    "RUN_NOT_REDRIVABLE": "anya run show tells how it ended; start a new run instead",
    "DEFINITION_INVALID": "correct the definition; anya workflow check needs no mesh",
    "WORKFLOW_MAKES_PAYMENTS": "send each payment with: anya pay",
    "INVALID_ARGUMENT": "correct what was given",
    "NOT_FOUND": "anya run list, anya workflow list and anya schedule list show what there is",
    "UNAVAILABLE": "anya status tells if it is being started again; start a mesh with: anya up",
    "DEADLINE_EXCEEDED": "look at anya status, and try again",
    "UNIMPLEMENTED": "the running mesh is of another version: restart it",
    "INTERNAL": "find the error id in the service's log under the home",
}


class CommandError(Exception):
    """The command cannot go on. Shown as one line, or under --json as one object; no traceback."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "FAILED_PRECONDITION",
        reason: str = "",
        remedy: str = "",
        exit_code: int = FAILED,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code  # name of a gRPC code
        self.reason = reason
        self.remedy = remedy
        self.exit_code = exit_code

    def document(self) -> dict[str, dict[str, str]]:
        """Returns the error document that --json prints on stderr."""
        return {
            "error": {
                "code": self.code,
                "reason": self.reason,
                "message": self.message,
                "remedy": self.remedy,
            }
        }

    def line(self) -> str:
        return f"{self.message} — {self.remedy}" if self.remedy else self.message


def usage(message: str, *, remedy: str = "") -> CommandError:
    """Returns the error for an argument that is wrong; exit code 2."""
    return CommandError(
        message, code="INVALID_ARGUMENT", reason="USAGE", remedy=remedy, exit_code=USAGE
    )


def from_rpc(error: grpc.aio.AioRpcError) -> CommandError:
    """Returns the status of a failed call as a CommandError."""
    from mesh.rpc.status import reason_of

    reason = reason_of(error)
    code = error.code().name
    message = error.details() or code
    if code == "UNAVAILABLE" and not reason:
        address = re.search(r"127\.0\.0\.1:\d+", message)
        message = f"no service answers at {address[0]}" if address else "the mesh does not answer"
    return CommandError(
        message,
        code=code,
        reason=reason,
        remedy=REMEDIES.get(reason) or REMEDIES.get(code, ""),
        exit_code=REFUSED if code == "PERMISSION_DENIED" else FAILED,
    )


def from_mesh(error: MeshError) -> CommandError:
    """Returns the CommandError for an error that was raised here, before any call."""
    words = re.findall(r"[A-Z][a-z]+", type(error).__name__)
    return CommandError(
        str(error),
        code="_".join(words).upper(),
        reason=error.reason or "",
        remedy=REMEDIES["INVALID_ARGUMENT"],
    )


def from_system(error: OSError) -> CommandError | None:
    """Returns the CommandError for an unusable file, or None if the error names no file."""
    if not error.filename:
        return None
    return CommandError(
        f"{error.filename} cannot be used: {error.strerror}",
        reason="FILE_UNUSABLE",
        remedy="check its owner and the free space of the disk, or choose another path",
    )
