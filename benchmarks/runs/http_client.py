"""A lean HTTP/1.1 client on asyncio streams: JSON posts over connections that are kept.

It drives the Restate peer. A general client, such as httpx, takes more CPU than the server that it
measures, on the same cores.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

    Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

TIMEOUT_S = 30.0


class HttpError(Exception):
    """The server answered with another status than 2xx."""


class HttpClient(AbstractAsyncContextManager["HttpClient"]):
    """Posts to one URL. Concurrent posts each have a connection; later posts use it again."""

    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._request = (
            f"POST {parts.path} HTTP/1.1\r\n"
            f"Host: {parts.netloc}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            "\r\n"
        ).encode() + body
        self._idle: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for _, writer in self._idle:
            writer.close()

    async def post(self) -> bytes:
        """Returns the body of the answer. Raises HttpError, OSError, EOFError or TimeoutError."""
        async with asyncio.timeout(TIMEOUT_S):
            connection = self._idle.pop() if self._idle else await self._connect()
            reader, writer = connection
            with ExitStack() as unless_complete:
                unless_complete.callback(writer.close)  # or a later post would read the rest
                writer.write(self._request)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await _read_body(reader, head)
                unless_complete.pop_all()
        self._idle.append(connection)
        status = head.split(b" ", 2)[1]
        if not status.startswith(b"2"):
            raise HttpError(f"status {status.decode()}: {body.decode(errors='replace')}")
        return body

    async def _connect(self) -> Connection:
        return await asyncio.open_connection(self._host, self._port)


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    headers = {}
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers[name] = value.strip()
    if headers.get(b"transfer-encoding") == b"chunked":
        return await _read_chunks(reader)
    return await reader.readexactly(int(headers[b"content-length"]))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)  # the line end after each chunk
    await reader.readexactly(2)
    return b"".join(chunks)
