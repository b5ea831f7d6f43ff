"""BIP 322 simple: published vectors, an independent verifier, and every kind of invalid proof."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import coincurve
import pytest
from bip322core.verify import verify_message
from bitcoin.core import CTransaction
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.bitcoin.address import format_address, parse_address
from formats.bitcoin.hashes import display, sha256d, tagged_hash
from formats.bitcoin.network import Network
from formats.bitcoin.p2wpkh import Key
from formats.jose.keys import SECP256K1_ORDER
from mesh.errors import InvalidArgument
from services.bitcoin.kernel import find_invalid_input
from services.bitcoin.ownership import (
    OwnershipVerdict,
    Statement,
    sign_p2tr,
    sign_p2wpkh,
    verify,
)
from tests.profile import examples

MESSAGE = b"I hold this key"
SECRET = bytes(range(1, 33))
P2WSH = "bc1qp0ahvfh83088w49k405szqgg4f3pptr7p2g06tdxfjcd40z4lh4q95lsz9"


def judge(script: bytes, message: bytes, signature: str) -> OwnershipVerdict:
    return verify(script, message, signature, find_invalid_input)


def p2wpkh(secret: bytes) -> bytes:
    return Key.from_secret(secret).script_pubkey


def p2tr(secret: bytes) -> bytes:
    """Returns the script of BIP 86, from public keys; the signer uses private keys."""
    x_only = coincurve.PrivateKey(secret).public_key.format()[1:]
    tweak = tagged_hash("TapTweak", x_only)
    return b"\x51\x20" + coincurve.PublicKey(b"\x02" + x_only).add(tweak).format()[1:]


def vectors() -> dict[str, Any]:
    folder = os.environ.get("ANYA_TEST_DATA")
    if not folder:
        pytest.skip("ANYA_TEST_DATA does not say where the BIP 322 vectors are")
    text = (Path(folder) / "bip322-basic-test-vectors.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_published_transactions_are_built_byte_for_byte() -> None:
    for vector in vectors()["tx_hashes"]:
        script = parse_address(vector["address"], Network.MAIN)
        statement = Statement(script, vector["message"].encode())

        assert display(statement.to_spend_txid) == vector["to_spend_tx_hash"]
        assert display(sha256d(statement.to_sign())) == vector["to_sign_tx_hash"]


def test_every_published_single_key_proof_is_valid() -> None:
    checked = 0
    for vector in vectors()["simple"]:
        if vector["type"] not in ("p2wpkh", "p2tr"):
            continue
        for signature in vector["bip322_signatures"]:
            script = parse_address(vector["address"], Network.MAIN)

            assert judge(script, vector["message"].encode(), signature) is OwnershipVerdict.VALID
            checked += 1
    assert checked >= 3


def test_every_published_invalid_proof_is_refused() -> None:
    for vector in vectors()["error"]:
        script = parse_address(vector["address"], Network.MAIN)
        message = vector["message"].encode()
        if vector["address"] == P2WSH:
            with pytest.raises(InvalidArgument):
                judge(script, message, vector["signature"])
        else:
            assert judge(script, message, vector["signature"]) is not OwnershipVerdict.VALID


@settings(max_examples=20, deadline=None)
@given(st.integers(1, SECP256K1_ORDER - 1), st.binary(max_size=200))
def test_independent_verifier_accepts_what_is_signed_here(number: int, message: bytes) -> None:
    secret = number.to_bytes(32, "big")

    for script, signature in (
        (p2wpkh(secret), sign_p2wpkh(secret, message)),
        (p2tr(secret), sign_p2tr(secret, message)),
    ):
        address = format_address(script, Network.MAIN)

        assert address
        assert judge(script, message, signature) is OwnershipVerdict.VALID
        assert verify_message(address, signature, message).state.value == "valid"


def test_proof_without_prefix_is_valid() -> None:
    signature = sign_p2wpkh(SECRET, MESSAGE).removeprefix("smp")

    assert judge(p2wpkh(SECRET), MESSAGE, signature) is OwnershipVerdict.VALID


@pytest.mark.parametrize("sign", [sign_p2wpkh, sign_p2tr], ids=["p2wpkh", "p2tr"])
def test_proof_is_valid_for_one_message_and_one_address(sign: Any) -> None:
    make = p2wpkh if sign is sign_p2wpkh else p2tr
    signature = sign(SECRET, MESSAGE)

    assert judge(make(SECRET), MESSAGE + b".", signature) is OwnershipVerdict.SIGNATURE_INVALID
    assert judge(make(SECRET[::-1]), MESSAGE, signature) is OwnershipVerdict.SIGNATURE_INVALID


def stack(*items: bytes) -> str:
    raw = bytes([len(items)]) + b"".join(bytes([len(item)]) + item for item in items)
    return "smp" + base64.b64encode(raw).decode()


def ecdsa(*, high_s: bool = False, sighash: int = 1) -> bytes:
    """Returns a valid signature of MESSAGE by SECRET in a form that only policy refuses."""
    to_sign = CTransaction.deserialize(Statement(p2wpkh(SECRET), MESSAGE).to_sign())
    der = Key.from_secret(SECRET).witness(to_sign, 0, amount_sat=0)[0][:-1]
    if high_s:
        r_end = 4 + der[3]
        s = (SECP256K1_ORDER - int.from_bytes(der[r_end + 2 :], "big")).to_bytes(33, "big")
        body = der[2:r_end] + b"\x02" + bytes([len(s)]) + s
        der = b"\x30" + bytes([len(body)]) + body
    return der + bytes([sighash])


PUBLIC_KEY = coincurve.PrivateKey(SECRET).public_key.format()


@pytest.mark.parametrize(
    ("signature", "verdict"),
    [
        pytest.param("", OwnershipVerdict.SIGNATURE_MALFORMED, id="empty"),
        pytest.param("smp", OwnershipVerdict.SIGNATURE_MALFORMED, id="prefix only"),
        pytest.param("smp!!", OwnershipVerdict.SIGNATURE_MALFORMED, id="no base64"),
        pytest.param(
            "ful" + stack(ecdsa(), PUBLIC_KEY), OwnershipVerdict.SIGNATURE_MALFORMED, id="full"
        ),
        pytest.param(
            stack(ecdsa(), PUBLIC_KEY) + " ", OwnershipVerdict.SIGNATURE_MALFORMED, id="space"
        ),
        pytest.param(
            "smp" + base64.b64encode(b"\x02\x01").decode(),
            OwnershipVerdict.SIGNATURE_MALFORMED,
            id="truncated",
        ),
        pytest.param(
            "smp" + base64.b64encode(b"\x01\x01\x00\x00").decode(),
            OwnershipVerdict.SIGNATURE_MALFORMED,
            id="trailing byte",
        ),
        pytest.param(stack(), OwnershipVerdict.WITNESS_NOT_KEY_PATH, id="no witness"),
        pytest.param(
            stack(ecdsa(), PUBLIC_KEY, b""),
            OwnershipVerdict.WITNESS_NOT_KEY_PATH,
            id="stack not clean",
        ),
        pytest.param(
            stack(ecdsa(), coincurve.PublicKey(PUBLIC_KEY).format(compressed=False)),
            OwnershipVerdict.WITNESS_NOT_KEY_PATH,
            id="uncompressed key",
        ),
        pytest.param(
            stack(ecdsa(high_s=True), PUBLIC_KEY),
            OwnershipVerdict.SIGNATURE_NOT_CANONICAL,
            id="high S",
        ),
        pytest.param(
            stack(b"", PUBLIC_KEY), OwnershipVerdict.SIGNATURE_NOT_CANONICAL, id="no signature"
        ),
        pytest.param(
            stack(ecdsa(sighash=2), PUBLIC_KEY), OwnershipVerdict.SIGHASH_NOT_ALL, id="NONE"
        ),
        pytest.param(
            stack(ecdsa(sighash=0x81), PUBLIC_KEY),
            OwnershipVerdict.SIGHASH_NOT_ALL,
            id="ANYONECANPAY",
        ),
        pytest.param(stack(ecdsa(), PUBLIC_KEY), OwnershipVerdict.VALID, id="as it should be"),
    ],
)
def test_p2wpkh_proof_has_one_form(signature: str, verdict: OwnershipVerdict) -> None:
    assert judge(p2wpkh(SECRET), MESSAGE, signature) is verdict


@pytest.mark.parametrize(
    ("witness", "verdict"),
    [
        pytest.param([bytes(64)], OwnershipVerdict.SIGNATURE_INVALID, id="zeros"),
        pytest.param([bytes(63)], OwnershipVerdict.WITNESS_NOT_KEY_PATH, id="too short"),
        pytest.param(
            [bytes(64) + b"\x00"], OwnershipVerdict.SIGHASH_NOT_ALL, id="explicit default"
        ),
        pytest.param([bytes(64) + b"\x03"], OwnershipVerdict.SIGHASH_NOT_ALL, id="SINGLE"),
        pytest.param([bytes(64), b"\x50"], OwnershipVerdict.WITNESS_NOT_KEY_PATH, id="annex"),
        pytest.param(
            [b"\x51", b"\xc0" + bytes(32)], OwnershipVerdict.WITNESS_NOT_KEY_PATH, id="script"
        ),
    ],
)
def test_p2tr_proof_has_one_form(witness: list[bytes], verdict: OwnershipVerdict) -> None:
    assert judge(p2tr(SECRET), MESSAGE, stack(*witness)) is verdict


@settings(max_examples=examples(200), deadline=None)
@given(st.data())
def test_no_altered_proof_holds(data: st.DataObject) -> None:
    raw = bytearray(base64.b64decode(sign_p2wpkh(SECRET, MESSAGE).removeprefix("smp")))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))

    signature = "smp" + base64.b64encode(raw).decode()

    assert judge(p2wpkh(SECRET), MESSAGE, signature) is not OwnershipVerdict.VALID


@pytest.mark.parametrize(
    ("script", "message", "signature", "field"),
    [
        pytest.param(parse_address(P2WSH, Network.MAIN), b"", "", "address", id="P2WSH"),
        pytest.param(p2wpkh(SECRET), b"x" * 65_537, "", "message", id="message too long"),
        pytest.param(p2wpkh(SECRET), b"", "x" * 1025, "signature", id="signature too long"),
    ],
)
def test_unsupported_scripts_and_oversized_texts_are_refused(
    script: bytes, message: bytes, signature: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        judge(script, message, signature)

    assert refusal.value.field == field
