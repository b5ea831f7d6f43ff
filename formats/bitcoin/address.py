"""Addresses: the text form of an output script, each valid on one network only."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from formats.bitcoin import base58, bech32
from formats.bitcoin.script import ScriptType, script_type, witness_program
from mesh.errors import InvalidArgument, Reason
from services.bitcoin.chain import Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

K = TypeVar("K", str, int)

HRPS = {"bc": (Network.MAIN,), "tb": (Network.TESTNET4, Network.SIGNET), "bcrt": (Network.REGTEST,)}
_TEST_NETWORKS = (Network.TESTNET4, Network.SIGNET, Network.REGTEST)
P2PKH_VERSIONS = {0x00: (Network.MAIN,), 0x6F: _TEST_NETWORKS}
P2SH_VERSIONS = {0x05: (Network.MAIN,), 0xC4: _TEST_NETWORKS}

KNOWN = 8192  # addresses whose checksum was found right before
MAX_ADDRESS_SIZE = 90  # characters of the longest bech32 address (BIP 173)


def parse_address(address: str, network: Network, *, field: str = "address") -> bytes:
    """The script_pubkey that the address stands for.

    InvalidArgument if it is malformed (ADDRESS_INVALID), or of another network, which is then
    named (ADDRESS_OF_OTHER_NETWORK).
    """
    if not 1 <= len(address) <= MAX_ADDRESS_SIZE:
        raise InvalidArgument(
            f"an address has 1 to {MAX_ADDRESS_SIZE} characters, not {len(address)}",
            reason=Reason.ADDRESS_INVALID,
            field=field,
        )
    try:
        if "1" in address and address.lower().rpartition("1")[0] in HRPS:
            script, networks = _parse_segwit(address)
        else:
            script, networks = _parse_base58(address)
    except ValueError as error:
        raise InvalidArgument(
            f"{address!r} is not an address: {error}", reason=Reason.ADDRESS_INVALID, field=field
        ) from None
    if network not in networks:
        raise InvalidArgument(
            f"{address} is an address of {' or '.join(networks)}; this network is {network}",
            reason=Reason.ADDRESS_OF_OTHER_NETWORK,
            field=field,
        )
    return script


def format_address(script: bytes, network: Network) -> str | None:
    """The address of the script, if its kind has one."""
    if program := witness_program(script):
        return bech32.encode_segwit(_first(HRPS, network), *program)
    match script_type(script):
        case ScriptType.P2PKH:
            return base58.encode_check(bytes([_first(P2PKH_VERSIONS, network)]) + script[3:23])
        case ScriptType.P2SH:
            return base58.encode_check(bytes([_first(P2SH_VERSIONS, network)]) + script[2:22])
        case _:
            return None


@lru_cache(maxsize=KNOWN)
def _parse_segwit(address: str) -> tuple[bytes, Sequence[Network]]:
    hrp, version, program = bech32.decode_segwit(address)
    opcode = 0x50 + version if version else 0
    return bytes([opcode, len(program)]) + program, HRPS[hrp]


@lru_cache(maxsize=KNOWN)
def _parse_base58(address: str) -> tuple[bytes, Sequence[Network]]:
    payload = base58.decode_check(address)
    if len(payload) != 21:
        raise ValueError(f"it holds {len(payload)} bytes, not 21")
    version, hash = payload[0], payload[1:]
    if version in P2PKH_VERSIONS:
        return b"\x76\xa9\x14" + hash + b"\x88\xac", P2PKH_VERSIONS[version]
    if version in P2SH_VERSIONS:
        return b"\xa9\x14" + hash + b"\x87", P2SH_VERSIONS[version]
    raise ValueError(f"unknown version {version}")


def _first(prefixes: Mapping[K, Sequence[Network]], network: Network) -> K:
    return next(prefix for prefix, networks in prefixes.items() if network in networks)
