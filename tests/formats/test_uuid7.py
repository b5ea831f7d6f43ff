"""UUIDv7: the time first, one canonical form."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import uuid7

MILLISECONDS = st.integers(0, 2**48 - 1)
RANDOM = st.binary(min_size=uuid7.RANDOM_BYTES, max_size=uuid7.RANDOM_BYTES)


@given(MILLISECONDS, RANDOM)
def test_uuid_begins_with_its_time_and_is_canonical(unix_ms: int, random: bytes) -> None:
    text = uuid7.from_parts(unix_ms, random)

    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == unix_ms
    assert uuid7.is_canonical(text)


def test_example_of_rfc_9562_is_reproduced() -> None:
    random = bytes.fromhex("0cc3" + "18c4dc0c0c07398f")

    assert uuid7.from_parts(0x017F22E279B0, random) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
        "017f22e279b07cc398c4dc0c0c07398f",
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
        "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
        "00000000-0000-0000-0000-000000000000",
        "payment",
    ],
)
def test_other_spellings_and_versions_are_not_canonical(text: str) -> None:
    assert not uuid7.is_canonical(text)
