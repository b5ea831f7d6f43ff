"""Input tensors: an error of an invalid one names the field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mesh.errors import InvalidArgument, Reason
from services.ml.tensor import ModelSignature, Tensor, rows

SIGNATURE = ModelSignature("input", 3)
VALUES = [1.0, float("nan"), -2.5, 0.0, 4.0, 5.0]
TYPED = Tensor("input", "FP32", (2, 3), None, VALUES)
RAW = Tensor("input", "FP32", (2, 3), np.array(VALUES, "<f4").tobytes(), None)


@pytest.mark.parametrize("tensor", [TYPED, RAW], ids=["typed", "raw"])
def test_both_encodings_have_equal_rows(tensor: Tensor) -> None:
    expected = np.array(VALUES, np.float32).reshape(2, 3)

    np.testing.assert_array_equal(rows(tensor, SIGNATURE), expected)


@pytest.mark.parametrize(
    ("tensor", "field"),
    [
        (replace(TYPED, name="inputs"), "name"),
        (replace(TYPED, datatype="FP64"), "datatype"),
        (replace(TYPED, shape=(2, 4)), "shape"),
        (replace(TYPED, shape=(6,)), "shape"),
        (replace(TYPED, shape=(0, 3), values=[]), "shape"),
        (replace(TYPED, shape=(-2, 3)), "shape"),
        (replace(TYPED, shape=(2**62, 3)), "shape"),
        (replace(TYPED, shape=(3, 3)), "contents"),
        (replace(TYPED, values=[*VALUES[:5], float("inf")]), "contents"),
        (replace(TYPED, raw=b""), "contents"),
        (replace(TYPED, values=None), "contents"),
        (replace(RAW, raw=(RAW.raw or b"") + b"\0"), "raw_input_contents"),
        (replace(RAW, raw=b""), "raw_input_contents"),
    ],
)
def test_error_of_an_invalid_tensor_names_the_field(tensor: Tensor, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        rows(tensor, SIGNATURE)

    assert refusal.value.reason is Reason.TENSOR_INVALID
    assert refusal.value.field == f"inputs.{field}"
