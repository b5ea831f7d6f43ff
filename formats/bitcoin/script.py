"""Output scripts: which kind of lock each one is."""

from __future__ import annotations

from enum import StrEnum

MAX_SCRIPT_SIZE = 10_000  # bytes: a longer one can never be spent (consensus)

OP_RETURN = 0x6A


class ScriptType(StrEnum):
    """Named as in output descriptors and block explorers; ``OTHER`` is bare or not standard."""

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
    if script[:1] == bytes([OP_RETURN]):
        return ScriptType.OP_RETURN
    return ScriptType.WITNESS_UNKNOWN if witness_program(script) else ScriptType.OTHER


def witness_program(script: bytes) -> tuple[int, bytes] | None:
    """Version 0 to 16 and program of 2 to 40 bytes, if the script is one (BIP 141)."""
    if not 4 <= len(script) <= 42 or script[1] != len(script) - 2:
        return None
    if script[0] == 0:
        return 0, script[2:]
    return (script[0] - 0x50, script[2:]) if 0x51 <= script[0] <= 0x60 else None


def is_unspendable(script: bytes) -> bool:
    """Whether no input can ever spend it, so that no index need keep it."""
    return script[:1] == bytes([OP_RETURN]) or len(script) > MAX_SCRIPT_SIZE
