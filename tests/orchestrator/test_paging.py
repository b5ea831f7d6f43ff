"""Page tokens: whoever writes one by hand hears that it is none of ours."""

from __future__ import annotations

import base64
import json

import pytest

from mesh.errors import InvalidArgument
from services.orchestrator.servicers import paging


def test_a_token_tells_where_the_last_page_ended() -> None:
    token = paging.make_token("runs", 5, "run-1")

    assert paging.read_token(token, "runs", int, str) == [5, "run-1"]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        json.dumps(["runs", 2**63, "run-1"]),
        json.dumps(["runs", -1, "run-1"]),
        json.dumps(["runs", 5, "a\0b"]),
        json.dumps(["runs", 5, "\ud800"]),
        json.dumps(["others", 5, "run-1"]),
        json.dumps(["runs", "run-1"]),
    ],
    ids=["deep", "large", "negative", "U+0000", "half a character", "other list", "short"],
)
def test_a_token_that_is_none_is_refused(text: str) -> None:
    token = base64.urlsafe_b64encode(text.encode()).decode()

    with pytest.raises(InvalidArgument, match="page_token is not of this list"):
        paging.read_token(token, "runs", int, str)
