"""The CIDs of data are those of ipfs-unixfs-importer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.web5.dwn import unixfs

CHUNK = unixfs.CHUNK_BYTES


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize(
    ("size", "cid"),
    [
        (0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (1, "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu"),
        (CHUNK, "bafkreibruh455iawsviqslif5c7uurdcfdemh22mtnytyzvnzn75kpejxy"),
        (CHUNK + 1, "bafybeiexg2oqkfnj56l7fcmawswqbijt5shq4b5rg6a546uwpkqqzwjioi"),
        (CHUNK * 174 + 1, "bafybeib4y7ghw2rq7bracc4xwtxrbzo7cfvagdpte2tmrkgwl6dyard3cm"),
    ],
    ids=["nothing", "a byte", "one leaf", "two leaves", "two levels"],
)
def test_cid_of_large_data_is_that_of_the_tree(size: int, cid: str) -> None:
    assert unixfs.data_cid(pattern(size)) == cid


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2 * CHUNK), max_size=4))
def test_cid_does_not_depend_on_the_pieces(sizes: list[int]) -> None:
    data = pattern(sum(sizes))
    whole = unixfs.DataCid()

    at = 0
    for size in sizes:
        whole.update(data[at : at + size])
        at += size

    assert whole.text() == unixfs.data_cid(data)
