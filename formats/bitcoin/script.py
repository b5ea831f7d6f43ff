"""Output scripts: the standard ones, and the type of any."""

from __future__ import annotations

from enum import StrEnum

from bitcoin.core.script import (
    OP_CHECKSIG,
    OP_DUP,
    OP_EQUAL,
    OP_EQUALVERIFY,
    OP_HASH160,
    OP_RETURN,
    CScript,
)

MAX_SCRIPT_BYTES = 10_000  # consensus: a longer script is never spendable

_RETURN = bytes([OP_RETURN])


class ScriptType(StrEnum):
    """Types as output descriptors and block explorers name them; ``OTHER`` is not standard."""

    P2PK = "p2pk"
    P2PKH = "p2pkh"
    P2SH = "p2sh"
    P2WPKH = "p2wpkh"
    P2WSH = "p2wsh"
    P2TR = "p2tr"
    WITNESS_UNKNOWN = "witness_unknown"
    OP_RETURN = "op_return"
    OTHER = "other"


def script_type(script: bytes) -> ScriptType:
    """Returns the type of an output script, by its bytes alone."""
    match len(script):
        case 22 if script[:2] == b"\x00\x14":
            return ScriptType.P2WPKH
        case 34 if script[:2] == b"\x51\x20":
            return ScriptType.P2TR
        case 34 if script[:2] == b"\x00\x20":
            return ScriptType.P2WSH
        case 25 if script[:3] == b"\x76\xa9\x14" and script[23:] == b"\x88\xac":
            return ScriptType.P2PKH
        case 23 if script[:2] == b"\xa9\x14" and script[22] == 0x87:
            return ScriptType.P2SH
        case 35 if script[0] == 33 and script[1] in (2, 3) and script[34] == 0xAC:
            return ScriptType.P2PK
        case 67 if script[:2] == b"\x41\x04" and script[66] == 0xAC:
            return ScriptType.P2PK
    if script[:1] == _RETURN:
        return ScriptType.OP_RETURN
    return ScriptType.WITNESS_UNKNOWN if witness_program(script) else ScriptType.OTHER


def p2pkh_script(key_hash: bytes) -> bytes:
    """Returns the script that pays to the HASH160 of a public key (20 bytes)."""
    return bytes(CScript([OP_DUP, OP_HASH160, key_hash, OP_EQUALVERIFY, OP_CHECKSIG]))


def p2sh_script(script_hash: bytes) -> bytes:
    """Returns the script that pays to the HASH160 of a script (20 bytes; BIP 16)."""
    return bytes(CScript([OP_HASH160, script_hash, OP_EQUAL]))


def witness_script_pubkey(version: int, program: bytes) -> bytes:
    """Returns the script of a witness program: version 0 to 16, 2 to 40 bytes (BIP 141)."""
    return bytes(CScript([version, program]))


def witness_program(script: bytes) -> tuple[int, bytes] | None:
    """Returns the version and the program of a witness script (BIP 141), or None for another."""
    if not 4 <= len(script) <= 42 or script[1] != len(script) - 2:
        return None
    if script[0] == 0:
        return 0, script[2:]
    return (script[0] - 0x50, script[2:]) if 0x51 <= script[0] <= 0x60 else None


def is_unspendable(script: bytes) -> bool:
    """Returns whether consensus lets no input ever spend the script; an index may leave it out."""
    return script[:1] == _RETURN or len(script) > MAX_SCRIPT_BYTES
