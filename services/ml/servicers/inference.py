"""inference.GRPCInferenceService: the Open Inference Protocol v2 for the served models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anya.standard.inference.v2 import inference_pb2 as pb
from anya.standard.inference.v2.inference_pb2_grpc import GRPCInferenceServiceServicer
from mesh.errors import NotFound, Reason
from services.ml import tensor
from services.ml.model import OUTPUTS
from services.ml.tensor import DATATYPE, Tensor

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from services.ml.model import Model
    from services.ml.registry import ModelRegistry

SERVER = "anya-ml"
PLATFORM = "onnx_onnxv1"


class InferenceServicer(GRPCInferenceServiceServicer):
    def __init__(self, registry: ModelRegistry, version: str) -> None:
        self._registry = registry
        self._version = version

    async def ServerLive(
        self,
        request: pb.ServerLiveRequest,
        context: ServicerContext[pb.ServerLiveRequest, pb.ServerLiveResponse],
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self,
        request: pb.ServerReadyRequest,
        context: ServicerContext[pb.ServerReadyRequest, pb.ServerReadyResponse],
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    async def ModelReady(
        self,
        request: pb.ModelReadyRequest,
        context: ServicerContext[pb.ModelReadyRequest, pb.ModelReadyResponse],
    ) -> pb.ModelReadyResponse:
        found = self._registry.find(request.name, request.version)
        return pb.ModelReadyResponse(ready=found is not None)

    async def ServerMetadata(
        self,
        request: pb.ServerMetadataRequest,
        context: ServicerContext[pb.ServerMetadataRequest, pb.ServerMetadataResponse],
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=SERVER, version=self._version)

    async def ModelMetadata(
        self,
        request: pb.ModelMetadataRequest,
        context: ServicerContext[pb.ModelMetadataRequest, pb.ModelMetadataResponse],
    ) -> pb.ModelMetadataResponse:
        model = self._model(request.name, request.version)
        entry = pb.ModelMetadataResponse.TensorMetadata
        width = model.signature.width
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=self._registry.versions(model.name),
            platform=PLATFORM,
            inputs=[entry(name=model.signature.name, datatype=DATATYPE, shape=[-1, width])],
            outputs=[entry(name=name, datatype=DATATYPE, shape=[-1, 1]) for name in OUTPUTS],
            properties={
                "feature_set": model.feature_set.name,
                "feature_set_hash": model.feature_set.hash,
                "features": ",".join(model.feature_set.names),
            },
        )

    async def ModelInfer(
        self,
        request: pb.ModelInferRequest,
        context: ServicerContext[pb.ModelInferRequest, pb.ModelInferResponse],
    ) -> pb.ModelInferResponse:
        model = self._model(request.model_name, request.model_version, field="model_name")
        wanted = _wanted(request)
        outputs = model.scorer.run(tensor.rows(_input(request), model.signature))
        by_name = dict(zip(OUTPUTS, outputs, strict=True))
        return pb.ModelInferResponse(
            model_name=model.name,
            model_version=model.version,
            id=request.id,
            outputs=[
                pb.ModelInferResponse.InferOutputTensor(
                    name=name, datatype=DATATYPE, shape=[len(by_name[name]), 1]
                )
                for name in wanted
            ],
            raw_output_contents=[np.asarray(by_name[name], "<f4").tobytes() for name in wanted],
        )

    def _model(self, name: str, version: str, *, field: str = "name") -> Model:
        model = self._registry.find(name, version)
        if model is None:
            known = ", ".join(self._registry.names())
            asked = f"{name[:64]!r} of version {version[:64]!r}" if version else f"{name[:64]!r}"
            raise NotFound(
                f"model {asked} is unknown; this service has {known}",
                reason=Reason.MODEL_NOT_FOUND,
                field=field,
            )
        return model


def _wanted(request: pb.ModelInferRequest) -> tuple[str, ...]:
    names = tuple(output.name for output in request.outputs)
    if not names:
        return OUTPUTS
    if len(set(names)) != len(names) or not set(names) <= set(OUTPUTS):
        raise tensor.invalid("outputs", f"they must be {' and '.join(OUTPUTS)}, each once at most")
    return names


def _input(request: pb.ModelInferRequest) -> Tensor:
    if len(request.inputs) != 1:
        raise tensor.invalid("name", f"the model takes one input, not {len(request.inputs)}")
    if request.raw_input_contents and len(request.raw_input_contents) != 1:
        raise tensor.invalid("raw_input_contents", "it must have one entry for each input")
    (given,) = request.inputs
    typed = given.HasField("contents")
    if typed and any(field.name != "fp32_contents" for field, _ in given.contents.ListFields()):
        raise tensor.invalid("contents", f"values of {DATATYPE} must be in fp32_contents")
    return Tensor(
        given.name,
        given.datatype,
        tuple(given.shape),
        request.raw_input_contents[0] if request.raw_input_contents else None,
        given.contents.fp32_contents if typed else None,
    )
