"""Export to ONNX: the converted trees, Platt's scaling and the score as plain nodes, and a gate.

A calibrated scikit-learn wrapper is never converted: the converters accept it and get it wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from lightgbm import LGBMClassifier
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

from services.ml.training.fit import score_shift

if TYPE_CHECKING:
    import numpy.typing as npt

    from services.ml.training.fit import Fit

OPSETS = {"": 18, "ai.onnx.ml": 3}
INPUT, PROBABILITY, SCORE = "input", "probability", "risk_score"
PARITY = 1e-5  # largest difference in p and score between LightGBM and ONNX Runtime
_EDGE = 1e-7  # keeps the logit of a float32 probability finite


class ParityError(Exception):
    """The exported graph does not compute what was trained."""


def export(fit: Fit, columns: int) -> bytes:
    """The model as ONNX bytes: ``input`` [n, columns] float32 to p and risk_score, each [n, 1]."""
    update_registered_converter(
        LGBMClassifier,
        "LightGbmLGBMClassifier",
        calculate_linear_classifier_output_shapes,
        convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]},
    )
    model = to_onnx(
        fit.trees,
        initial_types=[(INPUT, FloatTensorType([None, columns]))],
        options={id(fit.trees): {"zipmap": False}},
        target_opset=OPSETS,
    )
    _calibrate(model.graph, fit)
    model.graph.name = "payment-risk"
    model.producer_name, model.producer_version, model.doc_string = "anya", "", ""
    # The converter lists them as a set gives them, and one model should be one file.
    opsets = sorted(model.opset_import, key=lambda opset: str(opset.domain))
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model, full_check=True)
    exported: bytes = model.SerializeToString(deterministic=True)
    return exported


def _calibrate(graph: onnx.GraphProto, fit: Fit) -> None:
    """From the trees' probability back to the margin, then p and the score."""
    constants = {
        "second": np.array([1], np.int64),
        "low": np.float32(_EDGE),
        "high": np.float32(1 - _EDGE),
        "one": np.float32(1),
        "platt_a": np.float32(fit.platt_a),
        "platt_b": np.float32(fit.platt_b),
        "shift": np.float32(score_shift(fit.threshold)),
    }
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Gather", ["probabilities", "second"], "uncalibrated", {"axis": 1}),
        ("Clip", ["uncalibrated", "low", "high"], "clipped", {}),
        ("Sub", ["one", "clipped"], "complement", {}),
        ("Div", ["clipped", "complement"], "odds", {}),
        ("Log", ["odds"], "margin", {}),
        ("Mul", ["margin", "platt_a"], "scaled", {}),
        ("Add", ["scaled", "platt_b"], "logit", {}),
        ("Sigmoid", ["logit"], PROBABILITY, {}),
        ("Add", ["logit", "shift"], "shifted", {}),
        ("Sigmoid", ["shifted"], SCORE, {}),
    )
    graph.node.extend(
        helper.make_node(operator, inputs, [output], **attributes)
        for operator, inputs, output, attributes in steps
    )
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
        for name in (PROBABILITY, SCORE)
    )


def run(exported: bytes, x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], ...]:
    """p and risk_score, each [n], as ONNX Runtime computes them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    probability, score = session.run([PROBABILITY, SCORE], {INPUT: x})
    return probability[:, 0], score[:, 0]


def parity(fit: Fit, exported: bytes, x: npt.NDArray[np.float32]) -> float:
    """The largest difference over the rows; ParityError above the gate."""
    probability, score = run(exported, x)
    worst = max(
        float(np.abs(probability - fit.probability(x)).max()),
        float(np.abs(score - fit.score(x)).max()),
    )
    if not worst <= PARITY:
        raise ParityError(f"ONNX and LightGBM differ by {worst:.2e}, more than {PARITY}")
    return worst
