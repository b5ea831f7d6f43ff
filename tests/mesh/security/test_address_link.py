"""The address-link text: a formatted text parses back, and no other text parses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mesh.errors import InvalidArgument
from mesh.security.address_link import CHAINS, AddressLinkText, parse

LINK = AddressLinkText(
    audience="did:jwk:eyJrdHkiOiJPS1AifQ",
    address="bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk",
    did="did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
    network="regtest",
    challenge_id="0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f",
    nonce="n" * 22,
    issued_at=datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC),
    expires_at=datetime(2026, 11, 23, 12, 10, 0, tzinfo=UTC),
)
TEXT = """\
did:jwk:eyJrdHkiOiJPS1AifQ asks you to link a Bitcoin address to a decentralized identifier.

Address: bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk
DID: did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK
Chain: bip122:0f9188f13cb7b2c71f2a335e3a4fc328
URI: urn:web5:address-link:0192f0c1-7d5e-7cc3-98c4-dc0c0c07398f
Version: 1
Nonce: nnnnnnnnnnnnnnnnnnnnnn
Issued At: 2026-11-23T12:00:00Z
Expiration Time: 2026-11-23T12:10:00Z"""


def test_text_has_the_documented_form() -> None:
    assert LINK.format() == TEXT


@pytest.mark.parametrize("network", CHAINS)
def test_formatted_text_parses_to_the_same_fields(network: str) -> None:
    link = replace(LINK, network=network)

    assert parse(link.format()) == link


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(TEXT + "\n", id="final line feed"),
        pytest.param(" " + TEXT, id="leading space"),
        pytest.param(TEXT.replace("\n\n", "\n"), id="no empty line"),
        pytest.param(TEXT.replace("\n", "\r\n"), id="carriage returns"),
        pytest.param(TEXT.replace("Version: 1", "Version: 2"), id="another version"),
        pytest.param(TEXT.replace("0f9188f1", "ffffffff"), id="unknown chain"),
        pytest.param(TEXT.replace("n" * 22, "n" * 21), id="short nonce"),
        pytest.param(TEXT.replace("12:00:00Z", "25:00:00Z"), id="no such time"),
        pytest.param(TEXT.replace("2026-", "\u0662026-"), id="digits that are not ASCII"),
        pytest.param(TEXT.replace("did:key:z6", "did:key:\u200bz6"), id="zero-width character"),
        pytest.param("I owe Mallory 100 BTC", id="anything else"),
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse(text)


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(replace(LINK, did="did:a:b\nDID: did:a:c"), id="a second line"),
        pytest.param(replace(LINK, address=""), id="nothing"),
        pytest.param(replace(LINK, network="liquid"), id="unknown network"),
        pytest.param(
            replace(LINK, issued_at=LINK.issued_at.replace(microsecond=1)), id="part of a second"
        ),
    ],
)
def test_field_that_would_not_parse_back_is_refused(forged: AddressLinkText) -> None:
    with pytest.raises(InvalidArgument):
        forged.format()
