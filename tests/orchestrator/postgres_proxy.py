"""A proxy to PostgreSQL that breaks between a commit and its answer."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK_BYTES = 1 << 16
SHUTDOWN_FIELDS = (
    b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
)
SHUTDOWN_MESSAGE = b"E" + (len(SHUTDOWN_FIELDS) + 4).to_bytes(4, "big") + SHUTDOWN_FIELDS


@dataclass(slots=True)
class BreakableProxy:
    """Breaks once, after the server has answered the query that contains ``marker``."""

    url: str
    marker: bytes = b""
    cuts: int = 0
    clients: set[asyncio.StreamWriter] = field(default_factory=set)

    async def announce_shutdown(self) -> None:
        """Sends every client the message with which a server ends its connection."""
        for client in self.clients:
            client.write(SHUTDOWN_MESSAGE)
            await client.drain()

    def matches(self, data: bytes) -> bool:
        return bool(self.marker) and self.marker in data


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[BreakableProxy]:
    parts = urlsplit(url)
    folder = parse_qs(parts.query)["host"][0]
    proxy = BreakableProxy("")

    async def serve(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, upstream = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        matched = asyncio.Event()
        proxy.clients.add(back)

        async def forward() -> None:
            while data := await client.read(CHUNK_BYTES):
                if proxy.matches(data):
                    proxy.marker = b""
                    matched.set()
                upstream.write(data)

        async def backward() -> None:
            while data := await server.read(CHUNK_BYTES):
                if matched.is_set():
                    proxy.cuts += 1
                    return
                back.write(data)

        directions = [asyncio.create_task(forward()), asyncio.create_task(backward())]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for task in directions:
            task.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        proxy.clients.discard(back)
        upstream.close()
        back.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        proxy.url = f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
        yield proxy
