"""Input tensors of the Open Inference Protocol v2, checked before they become numpy arrays.

Values are row-major, raw ones little-endian. A tensor that does not fit is refused, naming the
field; no value is ever coerced.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mesh.errors import InvalidArgument, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

DATATYPE = "FP32"
MAX_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input as received; its values are either raw or typed."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None
    values: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """The one input of a model: ``[rows, width]`` of FP32. NaN is a missing value."""

    name: str
    width: int


def rows(tensor: Tensor, signature: ModelSignature) -> Rows:
    """Returns the tensor as float32 ``[n, width]``.

    Raises InvalidArgument (TENSOR_INVALID), naming the field, if it does not fit the signature.
    """
    if tensor.name != signature.name:
        raise invalid("name", f"the input is called {signature.name!r}, not {tensor.name[:64]!r}")
    if tensor.datatype != DATATYPE:
        raise invalid("datatype", f"it must be {DATATYPE}, not {tensor.datatype[:16]!r}")
    if len(tensor.shape) != 2 or tensor.shape[1] != signature.width:
        raise invalid("shape", f"it must be [rows, {signature.width}], not {tensor.shape[:8]}")
    if not 1 <= tensor.shape[0] <= MAX_ROWS:
        raise invalid("shape", f"1 to {MAX_ROWS} rows, not {tensor.shape[0]}")
    count = prod(tensor.shape)  # Python integers do not overflow
    array = _array(tensor, count).reshape(tensor.shape)
    if np.isinf(array).any():
        raise invalid("contents", "a value is infinite")
    return array


def _array(tensor: Tensor, count: int) -> npt.NDArray[np.float32]:
    if (tensor.raw is None) == (tensor.values is None):
        raise invalid("contents", "send either raw_input_contents or contents")
    if tensor.raw is not None:
        if len(tensor.raw) != count * 4:
            raise invalid("raw_input_contents", f"{count * 4} bytes, not {len(tensor.raw)}")
        return np.frombuffer(tensor.raw, dtype="<f4").astype(np.float32)
    values: Any = tensor.values
    if len(values) != count:
        raise invalid("contents", f"{count} values, not {len(values)}")
    return np.array(values, dtype=np.float32)


def invalid(field: str, complaint: str) -> InvalidArgument:
    """Returns the error for a field of an input tensor."""
    return InvalidArgument(
        f"input tensor, {field}: {complaint}", reason=Reason.TENSOR_INVALID, field=f"inputs.{field}"
    )
