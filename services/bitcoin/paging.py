"""Page tokens of coin lists: where the last page ended, and of which list."""

from __future__ import annotations

import base64
from hashlib import sha256
from struct import Struct, error

from mesh.errors import InvalidArgument
from services.bitcoin.chain import TxPosition

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

_TOKEN = Struct(">8sqII")  # of which script, height or -1 in the mempool, position, vout
_UNCONFIRMED = -1


def parse_page_size(page_size: int) -> int:
    if page_size < 0:
        raise InvalidArgument("page_size must not be negative", field="page_size")
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def render_page_token(last: TxPosition, script: bytes) -> str:
    height = _UNCONFIRMED if last.height is None else last.height
    token = _TOKEN.pack(_list_id(script), height, last.position, last.vout)
    return base64.urlsafe_b64encode(token).decode()


def parse_page_token(token: str, script: bytes) -> TxPosition | None:
    """Where to go on; None to begin. InvalidArgument for a token of another list."""
    if not token:
        return None
    try:
        list_id, height, position, vout = _TOKEN.unpack(base64.urlsafe_b64decode(token))
    except (ValueError, error):
        raise _stranger() from None
    if list_id != _list_id(script) or height < _UNCONFIRMED:
        raise _stranger()
    return TxPosition(None if height == _UNCONFIRMED else height, position, vout)


def _list_id(script: bytes) -> bytes:
    return sha256(script).digest()[:8]


def _stranger() -> InvalidArgument:
    return InvalidArgument(
        "page_token is not one of this list: leave it empty to begin", field="page_token"
    )
