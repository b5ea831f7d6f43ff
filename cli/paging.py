"""Reads all pages of a list method (AIP-158)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

R = TypeVar("R", bound=Any)  # a reply with a next_page_token


async def pages(method: Callable[[Any], Awaitable[R]], request: Any) -> AsyncIterator[R]:
    """Yields the reply of each page, first to last; sets the page token of ``request``."""
    while True:
        reply = await method(request)
        yield reply
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token
