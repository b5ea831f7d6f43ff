"""The reply of a node: a status, further members, and data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.web5.dwn import values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.web5.dwn.errors import DwnError


@dataclass(frozen=True, slots=True)
class Reply:
    code: int
    detail: str
    members: Mapping[str, bytes] = field(default_factory=dict)  # JSON
    data: bytes | None = None  # of the record of a RecordsRead

    def json(self) -> bytes:
        """Returns the reply as JSON, without ``data``."""
        status = values.dump({"code": self.code, "detail": self.detail})
        return json_object({"status": status, **self.members})


OK = 200
ACCEPTED = Reply(202, "Accepted")
NO_CONTENT = Reply(204, "No Content")
NOT_FOUND = Reply(404, "Not Found")
CONFLICT = Reply(409, "Conflict")


def error_reply(error: DwnError) -> Reply:
    """Returns the reply for a rejected message."""
    return Reply(error.status, error.detail)


def json_object(members: Mapping[str, bytes]) -> bytes:
    """Returns a JSON object of members that are JSON, so that messages keep their bytes."""
    return (
        b"{"
        + b",".join(b'"%s":%s' % (name.encode(), json) for name, json in members.items())
        + b"}"
    )


def json_array(items: Iterable[bytes]) -> bytes:
    """Returns a JSON array of items that are JSON."""
    return b"[" + b",".join(items) + b"]"


def with_members(json: bytes, members: Mapping[str, bytes]) -> bytes:
    """Returns a JSON object that is not empty, with further members appended."""
    return json.rstrip()[:-1] + b"," + json_object(members)[1:] if members else json
