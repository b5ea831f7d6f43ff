"""Addresses: the text form of an output script, each valid on one network or a few."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from formats.bitcoin import base58check, bech32
from formats.bitcoin.errors import AddressError, OtherNetworkError
from formats.bitcoin.network import Network
from formats.bitcoin.script import (
    ScriptType,
    p2pkh_script,
    p2sh_script,
    script_type,
    witness_program,
    witness_script_pubkey,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

P = TypeVar("P", str, int)

# Human-readable parts of bech32 addresses (BIP 173), and version bytes of base58 addresses.
SEGWIT_PREFIXES: Mapping[str, str] = {
    Network.MAIN: "bc",
    Network.TESTNET4: "tb",
    Network.SIGNET: "tb",
    Network.REGTEST: "bcrt",
}
P2PKH_VERSIONS: Mapping[str, int] = {
    network: 0x00 if network is Network.MAIN else 0x6F for network in Network
}
P2SH_VERSIONS: Mapping[str, int] = {
    network: 0x05 if network is Network.MAIN else 0xC4 for network in Network
}

_HUMAN_READABLE_PARTS = frozenset(SEGWIT_PREFIXES.values())

MAX_CACHED_ADDRESSES = 8192  # addresses whose checksum was right
MAX_ADDRESS_CHARS = 90  # of the longest bech32 address (BIP 173)


def parse_address(address: str, network: Network) -> bytes:
    """Returns the script_pubkey that the address stands for.

    Raises AddressError if the address is malformed, OtherNetworkError if it is of another network.
    """
    if not 1 <= len(address) <= MAX_ADDRESS_CHARS:
        raise AddressError(
            f"an address has 1 to {MAX_ADDRESS_CHARS} characters, not {len(address)}"
        )
    try:
        hrp = address.lower().rpartition("1")[0]
        is_segwit = hrp in _HUMAN_READABLE_PARTS
        script, networks = (_parse_segwit if is_segwit else _parse_base58)(address)
    except ValueError as error:
        raise AddressError(f"{address!r} is not an address: {error}") from None
    if network not in networks:
        raise OtherNetworkError(
            f"{address} is an address of {' or '.join(networks)}; this network is {network}"
        )
    return script


def format_address(script: bytes, network: Network) -> str | None:
    """Returns the address of the script, or None if its type has none."""
    if program := witness_program(script):
        return bech32.encode_segwit(SEGWIT_PREFIXES[network], *program)
    match script_type(script):
        case ScriptType.P2PKH:
            return base58check.encode(bytes([P2PKH_VERSIONS[network]]) + script[3:23])
        case ScriptType.P2SH:
            return base58check.encode(bytes([P2SH_VERSIONS[network]]) + script[2:22])
        case _:
            return None


@lru_cache(maxsize=MAX_CACHED_ADDRESSES)
def _parse_segwit(address: str) -> tuple[bytes, Sequence[str]]:
    hrp, version, program = bech32.decode_segwit(address)
    return witness_script_pubkey(version, program), _networks(SEGWIT_PREFIXES, hrp)


@lru_cache(maxsize=MAX_CACHED_ADDRESSES)
def _parse_base58(address: str) -> tuple[bytes, Sequence[str]]:
    payload = base58check.decode(address)
    if len(payload) != 21:
        raise ValueError(f"it holds {len(payload)} bytes, not 21")
    version, hash = payload[0], payload[1:]
    if networks := _networks(P2PKH_VERSIONS, version):
        return p2pkh_script(hash), networks
    if networks := _networks(P2SH_VERSIONS, version):
        return p2sh_script(hash), networks
    raise ValueError(f"unknown version {version}")


def _networks(prefixes: Mapping[str, P], prefix: P) -> tuple[str, ...]:
    return tuple(network for network, own in prefixes.items() if own == prefix)
