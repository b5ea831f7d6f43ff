"""Server reflection under both of its names: grpc.reflection.v1 and v1alpha.

The two protocols differ in the name of their package alone. grpcio-reflection ships v1alpha: its
servicer answers under both names, and its descriptor joins the pool under the name v1, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

V1 = "grpc.reflection.v1"
V1ALPHA = "grpc.reflection.v1alpha"
SERVICES = (f"{V1}.ServerReflection", f"{V1ALPHA}.ServerReflection")
METHOD = "ServerReflectionInfo"
METHODS = tuple(f"{service}/{METHOD}" for service in SERVICES)


def add_reflection(names: Iterable[str], server: grpc.aio.Server) -> None:
    """Serves the descriptors of the services ``names``, and of reflection itself."""
    _describe_v1()
    listed = [*names, *SERVICES]
    servicer: Any = reflection.aio.ReflectionServicer(listed)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(service, {METHOD: handler}) for service in SERVICES
        )
    )


def _describe_v1() -> None:
    """Adds the descriptor of v1 to the default pool, unless a library has done so."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(SERVICES[0])
    except KeyError:
        described = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(described)
        described.name, described.package = "grpc/reflection/v1/reflection.proto", V1
        for message in described.message_type:
            for field in message.field:
                if field.type_name:
                    field.type_name = field.type_name.replace(f".{V1ALPHA}.", f".{V1}.")
        for method in described.service[0].method:
            method.input_type = method.input_type.replace(f".{V1ALPHA}.", f".{V1}.")
            method.output_type = method.output_type.replace(f".{V1ALPHA}.", f".{V1}.")
        pool.Add(described)
