"""The CID of a record's data: UnixFS with the defaults of ipfs-unixfs-importer.

Chunks of 262,144 bytes are raw leaves. Up to 174 nodes are the children of one dag-pb node, level
by level, until one node remains. Data of one chunk has the CID of its leaf. The UnixFS and DAG-PB
specifications (specs.ipfs.tech) define the nodes; all links precede the data, and link names are
empty.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from formats import varint
from services.web5.dwn import cid

CHUNK_BYTES = 262_144
MAX_LINKS = 174

FILE = 2  # UnixFS node type


@dataclass(frozen=True, slots=True)
class UnixFsNode:
    cid: bytes
    file_size: int  # bytes of data under it
    tree_size: int  # bytes of data and of the nodes under it


class DataCid:
    """Computes the CID of data that arrives in pieces; holds at most one chunk in memory."""

    def __init__(self) -> None:
        self._leaves: list[UnixFsNode] = []
        self._rest = b""

    def update(self, piece: bytes) -> None:
        data = self._rest + piece if self._rest else piece
        whole = len(data) - len(data) % CHUNK_BYTES
        self._leaves += [_leaf(data[at : at + CHUNK_BYTES]) for at in range(0, whole, CHUNK_BYTES)]
        self._rest = data[whole:]

    def text(self) -> str:
        """Returns the CID of all pieces so far."""
        level = list(self._leaves)
        if self._rest or not level:
            level.append(_leaf(self._rest))
        while len(level) > 1:
            level = [_parent(level[at : at + MAX_LINKS]) for at in range(0, len(level), MAX_LINKS)]
        return cid.text(level[0].cid)


def data_cid(data: bytes) -> str:
    """Returns the CID of a record's data."""
    whole = DataCid()
    whole.update(data)
    return whole.text()


def _leaf(chunk: bytes) -> UnixFsNode:
    return UnixFsNode(cid.RAW + hashlib.sha256(chunk).digest(), len(chunk), len(chunk))


def _parent(children: list[UnixFsNode]) -> UnixFsNode:
    file_size = sum(child.file_size for child in children)
    sizes = b"".join(_integer(4, child.file_size) for child in children)
    file = _integer(1, FILE) + _integer(3, file_size) + sizes
    links = b"".join(_bytes(2, _link(child)) for child in children)
    block = links + _bytes(1, file)
    tree_size = len(block) + sum(child.tree_size for child in children)
    return UnixFsNode(cid.DAG_PB + hashlib.sha256(block).digest(), file_size, tree_size)


def _link(child: UnixFsNode) -> bytes:
    return _bytes(1, child.cid) + _bytes(2, b"") + _integer(3, child.tree_size)


def _bytes(field: int, value: bytes) -> bytes:
    """Returns a length-delimited field of the protobuf wire format."""
    return varint.encode(field << 3 | 2) + varint.encode(len(value)) + value


def _integer(field: int, value: int) -> bytes:
    return varint.encode(field << 3) + varint.encode(value)
