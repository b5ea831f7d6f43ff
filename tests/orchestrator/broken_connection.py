"""A wire to PostgreSQL that breaks when it hurts most: what was asked is done, nobody hears."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHUNK = 1 << 16
FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
GOODBYE = b"E" + (len(FIELDS) + 4).to_bytes(4, "big") + FIELDS


@dataclass(slots=True)
class Wire:
    """Breaks once after ``marker`` was sent through it, and the server has answered."""

    url: str
    marker: bytes = b""
    cuts: int = 0
    clients: set[asyncio.StreamWriter] = field(default_factory=set)

    async def say_goodbye(self) -> None:
        """Tell every client that the server ends its connection, which breaks a moment later."""
        for client in self.clients:
            client.write(GOODBYE)
            await client.drain()

    def is_meant(self, data: bytes) -> bool:
        return bool(self.marker) and self.marker in data


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    parts = urlsplit(url)
    folder = parse_qs(parts.query)["host"][0]
    wire = Wire("")

    async def serve(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        server, there = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        meant = asyncio.Event()
        wire.clients.add(back)

        async def pass_on() -> None:
            while data := await client.read(CHUNK):
                if wire.is_meant(data):
                    wire.marker = b""
                    meant.set()
                there.write(data)

        async def pass_back() -> None:
            while data := await server.read(CHUNK):
                if meant.is_set():
                    wire.cuts += 1
                    return
                back.write(data)

        ways = [asyncio.create_task(pass_on()), asyncio.create_task(pass_back())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        wire.clients.discard(back)
        there.close()
        back.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        wire.url = f"postgresql://postgres@127.0.0.1:{port}{parts.path}"
        yield wire
