"""The Open Inference Protocol v2 over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest

from anya.standard.inference.v2 import inference_pb2 as pb
from features.payment_risk import PAYMENT_RISK
from mesh.testing import reason
from services.ml.config import MODELS
from services.ml.store.models import read_models
from tests.ml.conftest import to_the_scam, to_the_shop

if TYPE_CHECKING:
    import numpy.typing as npt

    from tests.ml.conftest import Running

NAME = "payment-risk"
WIDTH = len(PAYMENT_RISK.names)
ROWS = np.stack([PAYMENT_RISK.vector(to_the_shop()), PAYMENT_RISK.vector(to_the_scam())])


def raw(rows: npt.NDArray[np.float32] = ROWS, **fields: str) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=fields.get("model", NAME),
        model_version=fields.get("version", ""),
        id=fields.get("id", ""),
        inputs=[tensor(list(rows.shape))],
        raw_input_contents=[rows.astype("<f4").tobytes()],
    )


def tensor(
    shape: list[int], *, name: str = "input", datatype: str = "FP32"
) -> pb.ModelInferRequest.InferInputTensor:
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)


async def test_server_and_model_are_ready(running: Running) -> None:
    live = await running.inference.ServerLive(pb.ServerLiveRequest(), timeout=5)
    ready = await running.inference.ServerReady(pb.ServerReadyRequest(), timeout=5)
    model = await running.inference.ModelReady(pb.ModelReadyRequest(name=NAME), timeout=5)
    other = await running.inference.ModelReady(pb.ModelReadyRequest(name="other"), timeout=5)

    assert (live.live, ready.ready, model.ready, other.ready) == (True, True, True, False)


async def test_metadata_describe_inputs_and_outputs(running: Running) -> None:
    found = await running.inference.ModelMetadata(pb.ModelMetadataRequest(name=NAME), timeout=5)

    assert found.platform == "onnx_onnxv1"
    assert found.versions == read_models(MODELS).versions(NAME)
    assert [(i.name, i.datatype, list(i.shape)) for i in found.inputs] == [
        ("input", "FP32", [-1, WIDTH])
    ]
    assert [(o.name, list(o.shape)) for o in found.outputs] == [
        ("probability", [-1, 1]),
        ("risk_score", [-1, 1]),
    ]
    assert found.properties["feature_set_hash"] == PAYMENT_RISK.hash


async def test_outputs_are_raw_little_endian_floats_in_order_of_rows(
    running: Running,
) -> None:
    reply = await running.inference.ModelInfer(raw(id="7"), timeout=5)

    scores = np.frombuffer(reply.raw_output_contents[1], "<f4")
    model = read_models(MODELS).find(NAME)
    assert model
    assert reply.id == "7"
    assert [(o.name, list(o.shape)) for o in reply.outputs] == [
        ("probability", [2, 1]),
        ("risk_score", [2, 1]),
    ]
    assert scores.tolist() == [model.predict(row).risk_score for row in ROWS]
    assert scores[0] < 0.7 <= scores[1]


async def test_typed_and_raw_contents_have_equal_outputs(running: Running) -> None:
    typed = pb.ModelInferRequest(model_name=NAME, inputs=[tensor(list(ROWS.shape))])
    typed.inputs[0].contents.fp32_contents.extend(ROWS.ravel().tolist())

    assert (await running.inference.ModelInfer(typed, timeout=5)).raw_output_contents == (
        await running.inference.ModelInfer(raw(), timeout=5)
    ).raw_output_contents


async def test_reply_has_only_the_requested_outputs(running: Running) -> None:
    request = raw()
    request.outputs.add(name="risk_score")

    reply = await running.inference.ModelInfer(request, timeout=5)

    assert [output.name for output in reply.outputs] == ["risk_score"]
    assert len(reply.raw_output_contents) == 1


def unknown_model() -> pb.ModelInferRequest:
    return raw(model="other")


def unknown_version() -> pb.ModelInferRequest:
    return raw(version="999")


@pytest.mark.parametrize("make", [unknown_model, unknown_version])
async def test_unknown_model_is_not_found(running: Running, make: object) -> None:
    assert callable(make)

    assert await refusal(running, make()) == ("NOT_FOUND", "MODEL_NOT_FOUND")


def with_input(**changes: object) -> pb.ModelInferRequest:
    request = raw()
    for name, value in changes.items():
        if name == "shape":
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(value)  # type: ignore[arg-type]
        else:
            setattr(request.inputs[0], name, value)
    return request


def without_inputs() -> pb.ModelInferRequest:
    return pb.ModelInferRequest(model_name=NAME)


def both_kinds_of_contents() -> pb.ModelInferRequest:
    request = raw()
    request.inputs[0].contents.fp32_contents.extend(ROWS.ravel().tolist())
    return request


def cut_short() -> pb.ModelInferRequest:
    request = raw()
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]
    return request


def infinite() -> pb.ModelInferRequest:
    rows = ROWS.copy()
    rows[1, 3] = np.inf
    return raw(rows)


def unknown_output() -> pb.ModelInferRequest:
    request = raw()
    request.outputs.add(name="label")
    return request


BAD = {
    "no input": without_inputs(),
    "another input name": with_input(name="x"),
    "another datatype": with_input(datatype="FP64"),
    "an unknown datatype": with_input(datatype="FLOAT"),
    "one dimension": with_input(shape=[WIDTH]),
    "too few columns": with_input(shape=[2, WIDTH - 1]),
    "a negative dimension": with_input(shape=[-2, WIDTH]),
    "no rows": with_input(shape=[0, WIDTH]),
    "a product beyond 64 bits": with_input(shape=[2**62, WIDTH]),
    "more rows than bytes": with_input(shape=[3, WIDTH]),
    "raw and typed contents": both_kinds_of_contents(),
    "a byte too few": cut_short(),
    "an infinite value": infinite(),
    "an output that is none": unknown_output(),
}


@pytest.mark.parametrize("request_", BAD.values(), ids=BAD)
async def test_malformed_request_is_an_invalid_argument(
    running: Running, request_: pb.ModelInferRequest
) -> None:
    assert await refusal(running, request_) == ("INVALID_ARGUMENT", "TENSOR_INVALID")


async def test_oversized_request_is_refused_before_it_is_read(running: Running) -> None:
    rows = np.zeros((60_000, WIDTH), np.float32)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.inference.ModelInfer(raw(rows), timeout=5)

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def refusal(running: Running, request: pb.ModelInferRequest) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.inference.ModelInfer(request, timeout=5)
    return refused.value.code().name, reason(refused.value)
