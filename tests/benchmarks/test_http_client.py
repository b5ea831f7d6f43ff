"""The client that drives Restate: answers of both forms, kept connections, and errors."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from benchmarks.runs.http_client import HttpClient, HttpError
from mesh.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}'
CHUNKED = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n'


class Server:
    """Answers every post with the same bytes, and counts connections."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.connections = 0
        self.requests: list[bytes] = []
        self.ends: list[asyncio.Future[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.ends.append(end := asyncio.get_running_loop().create_future())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(2))
                writer.write(self._answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        finally:
            end.set_result(None)


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[tuple[Server, HttpClient]]:
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, HttpClient(f"http://127.0.0.1:{port}/four_steps/run", b"{}") as client:
        yield server, client
    await asyncio.gather(*server.ends)


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED])
async def test_posts_one_after_the_other_use_one_connection(answer: bytes) -> None:
    async with serving(answer) as (server, client):
        bodies = [await client.post() for _ in range(3)]

    assert bodies == [b'{"a":1}'] * 3
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /four_steps/run HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_concurrent_posts_have_a_connection_each() -> None:
    async with serving(LENGTH) as (server, client):
        await asyncio.gather(*(client.post() for _ in range(4)))
        await asyncio.gather(*(client.post() for _ in range(4)))

    assert server.connections == 4


async def test_other_status_is_an_error_with_the_text_of_the_server() -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone"
    async with serving(answer) as (_, client):
        with pytest.raises(HttpError, match="status 404: none"):
            await client.post()


async def test_connection_with_an_unread_answer_is_not_used_again() -> None:
    async with serving(LENGTH[:-3]) as (server, client):
        for number in (1, 2):
            posting = asyncio.create_task(client.post())
            await eventually(lambda: len(server.requests) == number)  # noqa: B023  (awaited here)
            posting.cancel()
            await asyncio.gather(posting, return_exceptions=True)

    assert server.connections == 2
