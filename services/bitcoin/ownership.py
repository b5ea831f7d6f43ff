"""Proofs that a signer holds the key of an address: BIP 322, simple form, for P2WPKH and P2TR.

The signer signs a transaction: ``to_spend`` commits to the message and has the address's script,
``to_sign`` spends it, and the witness of ``to_sign`` is the proof.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from struct import pack
from typing import TYPE_CHECKING, TypeAlias

import coincurve
from bitcoin.core import CTransaction

from formats.bitcoin.hashes import Txid, sha256d, tagged_hash
from formats.bitcoin.p2wpkh import Key
from formats.bitcoin.script import ScriptType, script_type, witness_script_pubkey
from formats.bitcoin.transaction import (
    NULL_PREVOUT,
    Input,
    Outpoint,
    Output,
    compact_size,
    outpoint,
    serialize,
    serialize_outputs,
    sized,
)
from formats.jose.keys import SECP256K1_ORDER
from mesh.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PREFIX = "smp"
MAX_SIGNATURE_CHARS = 1024  # a P2WPKH proof has 147
MAX_MESSAGE_BYTES = 65_536

SIGHASH_ALL = b"\x01"

# Runs the scripts of a raw transaction: the first input that fails, or None.
FindInvalidInput: TypeAlias = "Callable[[bytes, Sequence[Output]], int | None]"

SEQUENCE = VERSION = LOCK_TIME = bytes(4)
OUTPUTS = (Output(0, b"\x6a"),)


class OwnershipVerdict(StrEnum):
    """The result of a check. Names never change."""

    VALID = "VALID"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"  # well formed, but not by this key over this message
    SIGNATURE_MALFORMED = "SIGNATURE_MALFORMED"  # not one witness stack in base64
    SIGNATURE_NOT_CANONICAL = "SIGNATURE_NOT_CANONICAL"  # breaks BIP 66 or the low S of BIP 146
    SIGHASH_NOT_ALL = "SIGHASH_NOT_ALL"  # leaves something of the transaction unsigned
    WITNESS_NOT_KEY_PATH = "WITNESS_NOT_KEY_PATH"  # not one key's signature


@dataclass(frozen=True, slots=True)
class Statement:
    """A message, and the script whose key signs it."""

    script_pubkey: bytes
    message: bytes

    @property
    def to_spend_txid(self) -> Txid:
        """The txid of the transaction that commits to the message; no chain can contain it."""
        script_sig = b"\x00\x20" + tagged_hash("BIP0322-signed-message", self.message)
        return Txid(
            sha256d(
                serialize(
                    version=0,
                    inputs=[Input(NULL_PREVOUT, script_sig, sequence=0)],
                    outputs=[Output(0, self.script_pubkey)],
                )
            )
        )

    @property
    def prevout(self) -> Outpoint:
        return outpoint(self.to_spend_txid, 0)

    def to_sign(self, witness: Sequence[bytes] = ()) -> bytes:
        """Returns the raw transaction that spends ``to_spend``."""
        spend = Input(self.prevout, sequence=0, witness=tuple(witness))
        return serialize(version=0, inputs=[spend], outputs=OUTPUTS)

    def sighash_taproot(self) -> bytes:
        """Returns the digest that a P2TR key signs on the key path (BIP 341, SIGHASH_DEFAULT)."""
        return tagged_hash(
            "TapSighash",
            bytes(2)  # epoch, SIGHASH_DEFAULT
            + VERSION
            + LOCK_TIME
            + sha256(self.prevout).digest()
            + sha256(pack("<q", 0)).digest()
            + sha256(sized(self.script_pubkey)).digest()
            + sha256(SEQUENCE).digest()
            + sha256(_outputs()).digest()
            + b"\x00"  # key path, no annex
            + pack("<I", 0),
        )


def sign_p2wpkh(secret: bytes, message: bytes) -> str:
    """Returns the proof of a 32-byte private key for its P2WPKH address."""
    key = Key.from_secret(secret)
    to_sign = CTransaction.deserialize(Statement(key.script_pubkey, message).to_sign())
    return _encode(key.witness(to_sign, 0, amount_sat=0))


def sign_p2tr(secret: bytes, message: bytes) -> str:
    """Returns the proof of a 32-byte private key for its P2TR address (BIP 86)."""
    key = _tweak(coincurve.PrivateKey(secret))
    statement = Statement(witness_script_pubkey(1, key.public_key.format()[1:]), message)
    return _encode([key.sign_schnorr(statement.sighash_taproot())])


def verify(
    script_pubkey: bytes, message: bytes, signature: str, find_invalid_input: FindInvalidInput
) -> OwnershipVerdict:
    """Verifies a proof: the rules of BIP 322 here, those of consensus in the kernel.

    Raises InvalidArgument if the script is neither P2WPKH nor P2TR, or a text is too large.
    """
    find_broken_rule = _RULES.get(script_type(script_pubkey))
    if find_broken_rule is None:
        raise InvalidArgument("only P2WPKH and P2TR addresses are verified here", field="address")
    if len(message) > MAX_MESSAGE_BYTES:
        raise InvalidArgument(f"message exceeds {MAX_MESSAGE_BYTES} bytes", field="message")
    if len(signature) > MAX_SIGNATURE_CHARS:
        raise InvalidArgument(
            f"signature exceeds {MAX_SIGNATURE_CHARS} characters", field="signature"
        )
    witness = _decode(signature)
    if witness is None:
        return OwnershipVerdict.SIGNATURE_MALFORMED
    if (rule := find_broken_rule(witness)) is not None:
        return rule
    to_sign = Statement(script_pubkey, message).to_sign(witness)
    if find_invalid_input(to_sign, [Output(0, script_pubkey)]) is not None:
        return OwnershipVerdict.SIGNATURE_INVALID
    return OwnershipVerdict.VALID


def _broken_p2wpkh(witness: Sequence[bytes]) -> OwnershipVerdict | None:
    if len(witness) != 2 or len(witness[1]) != 33:
        return OwnershipVerdict.WITNESS_NOT_KEY_PATH
    if not _is_canonical(witness[0][:-1]):
        return OwnershipVerdict.SIGNATURE_NOT_CANONICAL
    return None if witness[0][-1:] == SIGHASH_ALL else OwnershipVerdict.SIGHASH_NOT_ALL


def _broken_p2tr(witness: Sequence[bytes]) -> OwnershipVerdict | None:
    """Checks a key path spend; a spend by script would not prove that the key signed."""
    if len(witness) != 1 or len(witness[0]) not in (64, 65):
        return OwnershipVerdict.WITNESS_NOT_KEY_PATH
    return None if witness[0][64:] in (b"", SIGHASH_ALL) else OwnershipVerdict.SIGHASH_NOT_ALL


_RULES: dict[ScriptType, Callable[[Sequence[bytes]], OwnershipVerdict | None]] = {
    ScriptType.P2WPKH: _broken_p2wpkh,
    ScriptType.P2TR: _broken_p2tr,
}


def _is_canonical(der: bytes) -> bool:
    """Returns whether a signature is strict DER (BIP 66) with a low S (BIP 146)."""
    if len(der) < 8 or der[0] != 0x30 or der[1] != len(der) - 2 or der[2] != 0x02:
        return False
    r, rest = der[4 : 4 + der[3]], der[4 + der[3] :]
    if len(rest) < 3 or rest[0] != 0x02 or rest[1] != len(rest) - 2:
        return False
    s = rest[2:]
    return (
        _is_minimal(r) and _is_minimal(s) and 0 < int.from_bytes(s, "big") <= SECP256K1_ORDER // 2
    )


def _is_minimal(integer: bytes) -> bool:
    """Returns whether a DER integer is not negative and has no superfluous zero byte."""
    if not integer or integer[0] & 0x80:
        return False
    return integer[0] != 0 or len(integer) == 1 or bool(integer[1] & 0x80)


def _tweak(key: coincurve.PrivateKey) -> coincurve.PrivateKey:
    """Returns the private key of the output key of an internal key without scripts (BIP 341)."""
    public_key = key.public_key.format()
    if public_key[0] == 0x03:  # odd y: BIP 340 negates the key
        key = coincurve.PrivateKey.from_int(SECP256K1_ORDER - key.to_int())
    return key.add(tagged_hash("TapTweak", public_key[1:]))


def _encode(witness: Sequence[bytes]) -> str:
    stack = compact_size(len(witness)) + b"".join(sized(item) for item in witness)
    return PREFIX + base64.b64encode(stack).decode()


def _decode(signature: str) -> list[bytes] | None:
    """Returns the witness stack, or None unless the text is exactly one stack of short items."""
    text = signature.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not raw or base64.b64encode(raw).decode() != text:
        return None
    witness, at = [], 1
    for _ in range(raw[0]):
        if at >= len(raw) or raw[at] >= 0xFD:  # no item of a key's signature is that long
            return None
        witness.append(raw[at + 1 : at + 1 + raw[at]])
        at += 1 + raw[at]
    return witness if at == len(raw) else None


def _outputs() -> bytes:
    return serialize_outputs(OUTPUTS).removeprefix(compact_size(len(OUTPUTS)))
