"""DidService: creates and resolves DIDs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from anya.web5.v1 import did_pb2 as pb
from anya.web5.v1.did_pb2_grpc import DidServiceServicer
from formats import jose
from formats.did import did_jwk
from mesh.errors import InvalidArgument, Reason
from mesh.rpc.interceptors import request_key
from services.web5 import did as dids

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from services.web5.did import Document
    from services.web5.store.did import DidStore

METHODS = {pb.DID_METHOD_JWK: dids.Method.JWK, pb.DID_METHOD_KEY: dids.Method.KEY}
KEYS: dict[int, type[jose.Ed25519Key | jose.Secp256k1Key]] = {
    pb.KEY_TYPE_ED25519: jose.Ed25519Key,
    pb.KEY_TYPE_SECP256K1: jose.Secp256k1Key,
}
MAX_JWK_CHARS = 4096


class DidServicer(DidServiceServicer):
    def __init__(self, store: DidStore) -> None:
        self._store = store

    async def CreateDid(
        self,
        request: pb.CreateDidRequest,
        context: ServicerContext[pb.CreateDidRequest, pb.CreateDidResponse],
    ) -> pb.CreateDidResponse:
        if request.method not in METHODS:
            raise InvalidArgument("method must be JWK or KEY", field="method")
        if request.key_type not in KEYS:
            raise InvalidArgument("key_type must be ED25519 or SECP256K1", field="key_type")
        kind = KEYS[request.key_type]
        own = kind.generate() if request.managed else None
        key = own or _parse_jwk(request.public_jwk)
        if not isinstance(key, kind):
            raise InvalidArgument(
                "public_jwk is not a key of the requested key_type",
                reason=Reason.KEY_INVALID,
                field="public_jwk",
            )
        document = dids.create(METHODS[request.method], key)
        first = await self._store.create(
            request_key.current(), document, own, reply=_format_created
        )
        return pb.CreateDidResponse.FromString(first)

    async def ResolveDid(
        self,
        request: pb.ResolveDidRequest,
        context: ServicerContext[pb.ResolveDidRequest, pb.ResolveDidResponse],
    ) -> pb.ResolveDidResponse:
        return pb.ResolveDidResponse(document=_struct(dids.resolve(request.did)))


def _parse_jwk(text: str) -> jose.Key:
    try:
        jwk = jose.load_json(text) if len(text) <= MAX_JWK_CHARS else None
        if not isinstance(jwk, dict):
            raise jose.JoseError(f"not a JSON object of at most {MAX_JWK_CHARS} characters")
        return did_jwk.signature_key(jwk)
    except jose.JoseError as error:
        raise InvalidArgument(
            f"public_jwk: {error}", reason=Reason.KEY_INVALID, field="public_jwk"
        ) from None


def _format_created(document: Document) -> bytes:
    return pb.CreateDidResponse(did=document.did, document=_struct(document)).SerializeToString(
        deterministic=True
    )


def _struct(document: Document) -> Struct:
    return json_format.ParseDict(document.json(), Struct())
