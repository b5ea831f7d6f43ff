"""control.sock: how other commands of the same person talk to a running supervisor.

One JSON object per line and direction: {"command": "status"}, or {"command": "restart", "service":
NAME, "failpoints": SPEC}. Answers are {"result": …} or {"error": {…}}.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from cli.errors import START_THE_MESH, CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from cli.home import Home

SOCKET = "control.sock"
MAX_PATH_BYTES = 100  # the kernel takes 107
ANSWER_TIMEOUT_S = 60.0  # a restart waits for the service

Answer: TypeAlias = "Callable[[dict[str, Any]], Awaitable[Any]]"


@asynccontextmanager
async def serving(
    home: Home, answer: Callable[[dict[str, Any]], Awaitable[Any]]
) -> AsyncIterator[None]:
    """Answers requests for the block; only the home's owner may connect."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(line, answer)).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):  # gone, or a line beyond the limit
            pass
        finally:
            writer.close()

    (home.path / SOCKET).unlink(missing_ok=True)
    with _reachable(home) as path:
        mask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(converse, path)
        finally:
            os.umask(mask)
    try:
        yield
    finally:
        server.close()
        (home.path / SOCKET).unlink(missing_ok=True)


async def request(home: Home, command: str, **arguments: str) -> Any:
    """Sends a command to the supervisor. Raises CommandError if none runs or it refuses."""
    with _reachable(home) as path:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError:
            raise CommandError(
                f"no mesh runs on {home.path}",
                code="UNAVAILABLE",
                reason="NO_MESH",
                remedy=START_THE_MESH,
            ) from None
    try:
        writer.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = json.loads(await reader.readline() or b"{}")
    except (OSError, TimeoutError):
        answer = {}
    finally:
        writer.close()
    if "result" in answer:
        return answer["result"]
    raise CommandError(**answer.get("error", _LOST))


_LOST = {"message": "the supervisor did not answer", "code": "UNAVAILABLE", "reason": "NO_MESH"}


async def _answer(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        if not isinstance(asked, dict):
            raise TypeError
        return {"result": await answer(asked)}
    except CommandError as error:
        return error.document()
    except (ValueError, TypeError):
        return CommandError("not a request", code="INVALID_ARGUMENT").document()


@contextmanager
def _reachable(home: Home) -> Iterator[str]:
    """Yields the socket's path, through an open folder if it is too long for the kernel."""
    path = home.path / SOCKET
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(home.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
