"""Creation and resolution of DIDs over gRPC."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import json_format

from anya.web5.v1 import did_pb2 as pb
from formats import jose
from mesh.security.keystore import Keystore, MasterKey
from mesh.testing import reason
from services.web5 import did as dids
from tests.web5.conftest import start

if TYPE_CHECKING:
    from mesh.testing import Authority
    from services.web5.config import Web5Config
    from tests.web5.conftest import Running

KEYS: dict[pb.KeyType.ValueType, jose.Ed25519Key | jose.Secp256k1Key] = {
    pb.KEY_TYPE_ED25519: jose.Ed25519Key.from_secret(b"\1" * 32),
    pb.KEY_TYPE_SECP256K1: jose.Secp256k1Key.from_secret(b"\1" * 32),
}


@pytest.mark.parametrize("method", [pb.DID_METHOD_JWK, pb.DID_METHOD_KEY])
@pytest.mark.parametrize("key_type", KEYS)
async def test_did_is_created_from_a_public_key(
    running: Running, method: pb.DidMethod.ValueType, key_type: pb.KeyType.ValueType
) -> None:
    key = KEYS[key_type]
    request = pb.CreateDidRequest(
        request_id="1", method=method, key_type=key_type, public_jwk=json.dumps(key.jwk)
    )

    created = await running.dids.CreateDid(request, timeout=5)
    resolved = await running.dids.ResolveDid(pb.ResolveDidRequest(did=created.did), timeout=5)

    assert created.document == resolved.document
    assert json_format.MessageToDict(resolved.document) == dids.resolve(created.did).json()
    assert dids.resolve(created.did).methods[0].key.point == key.point


@pytest.mark.parametrize("key_type", KEYS)
async def test_managed_key_is_stored_sealed(
    config: Web5Config, authority: Authority, key_type: pb.KeyType.ValueType
) -> None:
    request = pb.CreateDidRequest(
        request_id="1", method=pb.DID_METHOD_KEY, key_type=key_type, managed=True
    )

    async with start(config, authority) as running:
        created = await running.dids.CreateDid(request, timeout=5)
        retried = await running.dids.CreateDid(request, timeout=5)

    assert retried == created
    with closing(sqlite3.connect(config.database)) as database:
        [(sealed,)] = database.execute("SELECT sealed FROM did WHERE did = ?", (created.did,))
    keystore = Keystore(MasterKey.from_file(config.master_key))
    secret = keystore.open(created.did, sealed)
    point = dids.resolve(created.did).methods[0].key.point
    assert type(KEYS[key_type]).from_secret(secret).point == point
    assert secret not in sealed


async def test_private_key_is_refused_and_not_echoed(running: Running) -> None:
    jwk = {**KEYS[pb.KEY_TYPE_ED25519].jwk, "d": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"}
    request = pb.CreateDidRequest(
        request_id="1",
        method=pb.DID_METHOD_JWK,
        key_type=pb.KEY_TYPE_ED25519,
        public_jwk=json.dumps(jwk),
    )

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.dids.CreateDid(request, timeout=5)

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert reason(refused.value) == "KEY_INVALID"
    assert jwk["d"] not in str(refused.value)


@pytest.mark.parametrize(
    "request_fields",
    [
        {"method": pb.DID_METHOD_UNSPECIFIED, "key_type": pb.KEY_TYPE_ED25519, "managed": True},
        {"method": pb.DID_METHOD_KEY, "key_type": pb.KEY_TYPE_UNSPECIFIED, "managed": True},
        {"method": pb.DID_METHOD_KEY, "key_type": pb.KEY_TYPE_ED25519},
        {"method": pb.DID_METHOD_KEY, "key_type": pb.KEY_TYPE_ED25519, "managed": False},
        {"method": pb.DID_METHOD_KEY, "key_type": pb.KEY_TYPE_ED25519, "public_jwk": "{"},
        {"method": pb.DID_METHOD_KEY, "key_type": pb.KEY_TYPE_ED25519, "public_jwk": "[]"},
        {
            "method": pb.DID_METHOD_KEY,
            "key_type": pb.KEY_TYPE_SECP256K1,
            "public_jwk": json.dumps(KEYS[pb.KEY_TYPE_ED25519].jwk),
        },
    ],
    ids=["method", "key type", "no key", "unmanaged", "no JSON", "no object", "another type"],
)
async def test_request_without_a_usable_key_is_refused(
    running: Running, request_fields: dict[str, object]
) -> None:
    request = pb.CreateDidRequest(request_id="1", **request_fields)  # type: ignore[arg-type]

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.dids.CreateDid(request, timeout=5)

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("did", "code", "word"),
    [
        ("did:web:example.com", grpc.StatusCode.FAILED_PRECONDITION, "DID_METHOD_UNSUPPORTED"),
        ("did:key:z6Mk", grpc.StatusCode.INVALID_ARGUMENT, "DID_INVALID"),
        ("alice", grpc.StatusCode.INVALID_ARGUMENT, "DID_INVALID"),
    ],
)
async def test_error_of_an_unresolvable_did_names_the_reason(
    running: Running, did: str, code: grpc.StatusCode, word: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.dids.ResolveDid(pb.ResolveDidRequest(did=did), timeout=5)

    assert refused.value.code() == code
    assert reason(refused.value) == word
