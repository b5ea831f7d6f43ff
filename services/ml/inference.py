"""ONNX Runtime, called in line: one prediction costs less than a hand-over to a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from mesh.errors import Internal, Reason
from services.ml.model import INPUT, OUTPUTS

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# ONNX Runtime's errors have no common base class.
LOAD_ERRORS = (
    state.Fail,
    state.InvalidArgument,
    state.InvalidGraph,
    state.InvalidProtobuf,
    state.NoModel,
    state.NotImplemented,
    state.RuntimeException,
)
LOG_ERRORS_ONLY = 3  # severity; ONNX Runtime writes its log to stderr


class OnnxScorer:
    """An inference session that has run once, so that the first call pays no warm-up."""

    def __init__(self, graph: bytes, width: int) -> None:
        """Loads a graph. Raises ValueError unless it maps [n, ``width``] to both ``OUTPUTS``."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = LOG_ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except LOAD_ERRORS as error:
            raise ValueError(f"ONNX Runtime cannot load it: {error}") from None
        inputs = [(entry.name, entry.shape[1:]) for entry in self._session.get_inputs()]
        outputs = {entry.name for entry in self._session.get_outputs()}
        if inputs != [(INPUT, [width])] or not outputs.issuperset(OUTPUTS):
            raise ValueError(f"it must take {INPUT} [n, {width}] and give {', '.join(OUTPUTS)}")
        self.run(np.zeros((1, width), dtype=np.float32))

    def run(self, rows: Floats) -> tuple[Floats, Floats]:
        """Returns probability and risk score, each [n], of rows [n, width] of float32.

        Raises Internal (MODEL_OUTPUT_INVALID) if one of them is not finite.
        """
        probability, score = self._session.run(list(OUTPUTS), {INPUT: rows})
        if not (np.isfinite(probability).all() and np.isfinite(score).all()):
            raise Internal(
                "the model returned a score that is not finite", reason=Reason.MODEL_OUTPUT_INVALID
            )
        return cast("Floats", probability[:, 0]), cast("Floats", score[:, 0])
