"""DIDs and their documents: published test vectors, and malformed identifiers."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import base58, jose
from formats.did import did_jwk, did_key
from mesh.errors import FailedPrecondition, MeshError, Reason
from services.web5.did import Method, Relationship, create, resolve

SECRETS = st.integers(1, 2**251).map(lambda number: number.to_bytes(32))
ED25519 = jose.Ed25519Key.from_secret(bytes(32))
SECP256K1 = jose.Secp256k1Key.from_secret(bytes(31) + b"\1")

# W3C CCG did:key test vectors: secret -> DID
ED25519_VECTORS = {
    "00" * 32: "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp",
    "00" * 31 + "01": "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG",
    "00" * 31 + "02": "did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf",
    "00" * 31 + "03": "did:key:z6MkvqoYXQfDDJRv8L4wKzxYeuKyVZBfi9Qo6Ro8MiLH3kDQ",
    "00" * 31 + "04": "did:key:z6MkwW6aqMnjgrhJXFUko3NnZPGzVpkNzhYK7yEhnsibmLwL",
}
SECP256K1_VECTORS = {
    "9085d2bef69286a6cbb51623c8fa258629945cd55ca705cc4e66700396894e0c": (
        "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
    ),
    "f0f4df55a2b3ff13051ea814a8f24ad00f2e469af73c363ac7e9fb999a9072ed": (
        "did:key:zQ3shtxV1FrJfhqE1dvxYRcCknWNjHc3c5X1y3ZSoPDi2aur2"
    ),
    "6b0b91287ae3348f8c2f2552d766f30e3604867e34adc37ccbb74a8e6b893e02": (
        "did:key:zQ3shZc2QzApp2oymGvQbzP8eKheVshBHbU4ZYjeXqwSKEn6N"
    ),
    "c0a6a7c560d37d7ba81ecee9543721ff48fea3e0fb827d42c1868226540fac15": (
        "did:key:zQ3shadCps5JLAHcZiuX5YUtWHHL8ysBJqFLWvjZDKAWUBGzy"
    ),
    "175a232d440be1e0788f25488a73d9416c04b6f924bea6354bf05dd2f1a75133": (
        "did:key:zQ3shptjE6JwdkeKN4fcpnYQY3m9Cet3NiHdAfpvSUZBFoKBj"
    ),
}
P256_VECTORS = {
    "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv": (
        "igrFmi0whuihKnj9R3Om1SoMph72wUGeFaBbzG2vzns",
        "efsX5b10x8yjyrj4ny3pGfLcY7Xby1KzgqOdqnsrJIM",
    ),
    "did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169": (
        "fyNYMN0976ci7xqiSdag3buk-ZCwgXU4kz9XNkBlNUI",
        "hW2ojTNfH7Jbi8--CJUo3OCbH3y5n91g-IMA9MLMbTU",
    ),
}


def spell(jwk: object) -> str:
    return did_jwk.PREFIX + jose.encode(json.dumps(jwk).encode())


def multikey(raw: bytes) -> str:
    return did_key.PREFIX + "z" + base58.encode(raw)


def outcome(text: str) -> str | None:
    """Returns the DID of the document, or the reason of the error."""
    try:
        return resolve(text).did
    except MeshError as error:
        return error.reason


@pytest.mark.parametrize(("secret", "did"), ED25519_VECTORS.items())
def test_ed25519_key_has_its_published_did(secret: str, did: str) -> None:
    key = jose.Ed25519Key.from_secret(bytes.fromhex(secret))

    assert create(Method.KEY, key).did == did
    assert resolve(did).methods[0].key.point == key.point


@pytest.mark.parametrize(("secret", "did"), SECP256K1_VECTORS.items())
def test_secp256k1_key_has_its_published_did(secret: str, did: str) -> None:
    key = jose.Secp256k1Key.from_secret(bytes.fromhex(secret))

    assert create(Method.KEY, key).did == did
    assert resolve(did).methods[0].key.point == key.point


@pytest.mark.parametrize(("did", "point"), P256_VECTORS.items())
def test_published_p256_did_is_resolved(did: str, point: tuple[str, str]) -> None:
    jwk = resolve(did).methods[0].jwk

    assert (jwk["crv"], jwk["x"], jwk["y"]) == ("P-256", *point)


@given(SECRETS, st.sampled_from([jose.Ed25519Key, jose.Secp256k1Key, jose.P256Key]))
def test_key_is_recovered_from_its_did(
    secret: bytes, kind: type[jose.Ed25519Key | jose.Secp256k1Key | jose.P256Key]
) -> None:
    key = kind.from_secret(secret)

    for method in Method:
        document = create(method, key)
        assert document.methods[0].key.point == key.point
        assert resolve(document.did) == document


def test_document_lists_its_key_for_signatures_but_not_for_key_agreement() -> None:
    document = create(Method.KEY, ED25519).json()

    did = "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    kid = f"{did}#z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
    assert document == {
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/jwk/v1"],
        "id": did,
        "verificationMethod": [
            {"id": kid, "type": "JsonWebKey", "controller": did, "publicKeyJwk": ED25519.jwk}
        ],
        "authentication": [kid],
        "assertionMethod": [kid],
        "capabilityInvocation": [kid],
        "capabilityDelegation": [kid],
    }


def test_did_jwk_document_has_the_jwk_as_encoded() -> None:
    did = spell({**ED25519.jwk, "alg": "EdDSA", "use": "sig", "kid": "mine"})

    method = resolve(did).methods[0]

    assert method.id == f"{did}#0"
    assert method.jwk["kid"] == "mine"
    assert method.key.point == ED25519.point


def test_key_is_found_by_its_exact_id_only() -> None:
    document = create(Method.JWK, SECP256K1)

    assert document.key(f"{document.did}#0", Relationship.AUTHENTICATION)
    assert document.key("#0", Relationship.AUTHENTICATION) is None
    assert document.key("0", Relationship.AUTHENTICATION) is None
    assert document.key(f"{document.did}#00", Relationship.AUTHENTICATION) is None


ED = b"\xed\x01"
MALFORMED = {
    "no DID": "alice",
    "a DID URL": f"{create(Method.KEY, ED25519).did}#z6Mk",
    "a path": f"{create(Method.KEY, ED25519).did}/x",
    "a line break": f"{create(Method.KEY, ED25519).did}\n",
    "longer than 4 KB": "did:jwk:" + "A" * 4096,
    "an empty key": "did:key:z",
    "another multibase": "did:key:m7QEAAA",
    "a symbol that base58 lacks": "did:key:z6Mk0",
    "a short key": multikey(ED + ED25519.point[:31]),
    "a long key": multikey(ED + ED25519.point + b"\0"),
    "a leading zero byte": multikey(b"\0" + ED + ED25519.point),
    "X25519, which signs nothing": multikey(b"\xec\x01" + ED25519.point),
    "a varint that is not minimal": multikey(b"\xed\x81\x00" + ED25519.point),
    "a varint without an end": multikey(b"\xff\xff\xff" + ED25519.point),
    "y above the prime": multikey(ED + b"\xff" * 31 + b"\x7f"),
    "no point of Ed25519": multikey(ED + b"\2" + bytes(31)),
    "no point of secp256k1": multikey(b"\xe7\x01\x02" + bytes(31) + b"\5"),
    "an uncompressed point": multikey(
        b"\xe7\x01\x04" + jose.decode(SECP256K1.jwk["x"]) + jose.decode(SECP256K1.jwk["y"])
    ),
    "no point of P-256": multikey(b"\x80\x24\x02" + bytes(31) + b"\1"),
    "a private JWK": spell({**ED25519.jwk, "d": jose.encode(bytes(32))}),
    "a symmetric JWK": spell({"kty": "oct", "k": "AAAA"}),
    "a JWK of another curve": spell({**ED25519.jwk, "crv": "X25519"}),
    "a JWK without kty": spell({"crv": "Ed25519", "x": ED25519.jwk["x"]}),
    "an EC JWK without y": spell({"kty": "EC", "crv": "secp256k1", "x": SECP256K1.jwk["x"]}),
    "a JWK whose y is another's": spell({**SECP256K1.jwk, "y": SECP256K1.jwk["x"]}),
    "a JWK with short x": spell({**ED25519.jwk, "x": "AAAA"}),
    "a JWK with x no text": spell({**ED25519.jwk, "x": 7}),
    "a JWK for encryption": spell({**ED25519.jwk, "use": "enc"}),
    "a JWK that verifies nothing": spell({**ED25519.jwk, "key_ops": ["deriveKey"]}),
    "a JWK with key_ops no list": spell({**ED25519.jwk, "key_ops": 5}),
    "a JWK with another alg": spell({**ED25519.jwk, "alg": "ES256K"}),
    "a number that few can read": spell({**ED25519.jwk, "n": 10**400}),
    "JSON that is no object": spell([1]),
    "padding": spell(ED25519.jwk) + "=",
    "stray bits": spell(ED25519.jwk)[:-1] + "B" * 2,
    "a member twice": did_jwk.PREFIX + jose.encode(b'{"kty":"OKP","kty":"OKP"}'),
    "no UTF-8": did_jwk.PREFIX + jose.encode(b"\xff"),
    "nesting without end": did_jwk.PREFIX + jose.encode(b"[" * 3000),
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_did_is_refused(text: str) -> None:
    with pytest.raises(MeshError) as refused:
        resolve(text)

    assert refused.value.reason is Reason.DID_INVALID
    assert refused.value.field == "did"


def test_unsupported_method_has_another_error_than_a_malformed_did() -> None:
    with pytest.raises(FailedPrecondition, match="did:web is not supported") as refused:
        resolve("did:web:example.com")

    assert refused.value.reason is Reason.DID_METHOD_UNSUPPORTED


@given(st.text() | st.binary().map(lambda raw: "did:jwk:" + jose.encode(raw)))
def test_resolver_raises_only_mesh_errors(text: str) -> None:
    for candidate in (text, f"did:key:z{text}", f"did:jwk:{text}"):
        assert outcome(candidate) in {
            candidate,
            Reason.DID_INVALID,
            Reason.DID_METHOD_UNSUPPORTED,
        }
