"""Page tokens: a token that was forged, or made for another list, is refused."""

from __future__ import annotations

import base64
import json

import pytest

from mesh.errors import InvalidArgument
from mesh.rpc import paging

RUNS = json.loads(base64.urlsafe_b64decode(paging.make_token("runs")))[0]


def test_token_returns_the_position_of_the_last_entry() -> None:
    token = paging.make_token("runs", 5, "run-1")

    assert paging.read_token(token, "runs", int, str) == [5, "run-1"]


def test_token_of_another_query_is_refused() -> None:
    token = paging.make_token("runs of alice", 5, "run-1")

    with pytest.raises(InvalidArgument, match="page_token is not of this list"):
        paging.read_token(token, "runs of bob", int, str)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps([RUNS, 2**63, "run-1"]),
        json.dumps([RUNS, -1, "run-1"]),
        json.dumps([RUNS, 5, "a\0b"]),
        json.dumps([RUNS, 5, "\ud800"]),
        json.dumps(["others", 5, "run-1"]),
        json.dumps([RUNS, "run-1"]),
    ],
    ids=["deep", "large", "negative", "U+0000", "half a character", "other list", "short"],
)
def test_forged_token_is_refused(text: str) -> None:
    token = base64.urlsafe_b64encode(text.encode()).decode()

    with pytest.raises(InvalidArgument, match="page_token is not of this list"):
        paging.read_token(token, "runs", int, str)
