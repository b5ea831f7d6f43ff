"""The text that an address signs to be linked to a DID, written and parsed strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from mesh.errors import InvalidArgument

# Half of the genesis hash in display order: how CAIP-2 names chains (namespace bip122).
CHAINS = {
    "main": "000000000019d6689c085ae165831e93",
    "testnet4": "00000000da84f2bafbbc53dee25a72ae",
    "signet": "00000008819873e925422c1ff0f99f7c",
    "regtest": "0f9188f13cb7b2c71f2a335e3a4fc328",
}
NETWORKS = {chain: network for network, chain in CHAINS.items()}

MAX_MESSAGE_CHARS = 4096
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"

TEMPLATE = """\
{audience} asks you to link a Bitcoin address to a decentralized identifier.

Address: {address}
DID: {did}
Chain: bip122:{chain}
URI: urn:web5:address-link:{challenge_id}
Version: 1
Nonce: {nonce}
Issued At: {issued_at}
Expiration Time: {expires_at}"""
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
FIELDS = {
    "audience": r"[!-~]{1,2048}",
    "address": r"[0-9A-Za-z]{14,90}",
    "did": r"did:[a-z0-9]+:[!-~]{1,2048}",
    "chain": "|".join(CHAINS.values()),
    "challenge_id": r"[0-9A-Za-z_-]{1,64}",
    "nonce": r"[0-9A-Za-z_-]{22,128}",  # 128 bits or more, base64url
    "issued_at": TIME,
    "expires_at": TIME,
}
PATTERN = re.compile(
    re.escape(TEMPLATE)
    .replace(r"\{", "{")
    .replace(r"\}", "}")
    .format_map({name: f"(?P<{name}>{pattern})" for name, pattern in FIELDS.items()})
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLinkText:
    """The fields of the text. Times are UTC, in whole seconds."""

    audience: str  # the DID of the service that asks
    address: str
    did: str
    network: str  # "regtest", "signet", "testnet4" or "main"
    challenge_id: str
    nonce: str
    issued_at: datetime
    expires_at: datetime

    def format(self) -> str:
        """Returns the text to sign: printable ASCII and LF, without an LF at the end.

        Raises InvalidArgument if parsing the text would not give the same fields.
        """
        text = TEMPLATE.format(
            audience=self.audience,
            address=self.address,
            did=self.did,
            chain=CHAINS.get(self.network, ""),
            challenge_id=self.challenge_id,
            nonce=self.nonce,
            issued_at=self.issued_at.strftime(TIME_FORMAT),
            expires_at=self.expires_at.strftime(TIME_FORMAT),
        )
        if parse(text) != self:
            raise InvalidArgument(f"no address-link text can state {self}; correct its fields")
        return text


def parse(text: str) -> AddressLinkText:
    """Returns the fields of a text written by ``format``. Raises InvalidArgument for any other."""
    found = PATTERN.fullmatch(text) if len(text) <= MAX_MESSAGE_CHARS else None
    if found is None:
        raise InvalidArgument("the message is not an address-link text", field="message")
    fields = found.groupdict()
    try:
        issued_at, expires_at = _time(fields["issued_at"]), _time(fields["expires_at"])
    except ValueError:
        raise InvalidArgument(
            "the address-link text has a time that does not exist", field="message"
        ) from None
    return AddressLinkText(
        audience=fields["audience"],
        address=fields["address"],
        did=fields["did"],
        network=NETWORKS[fields["chain"]],
        challenge_id=fields["challenge_id"],
        nonce=fields["nonce"],
        issued_at=issued_at,
        expires_at=expires_at,
    )


def _time(text: str) -> datetime:
    return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=UTC)
