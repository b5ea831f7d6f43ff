"""Export to ONNX: converted trees, Platt scaling and score as plain nodes, and a parity check.

scikit-learn's calibrated wrapper is not converted: the converters accept it with wrong results.
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

    from services.ml.training.fit import FittedModel

OPSETS = {"": 18, "ai.onnx.ml": 3}
INPUT, PROBABILITY, SCORE = "input", "probability", "risk_score"
PARITY_TOLERANCE = 1e-5  # largest difference in p and score between LightGBM and ONNX Runtime
_EDGE = 1e-7  # keeps the logit of a float32 probability finite


class ParityError(Exception):
    """An exported graph whose outputs differ from those of the trained model."""


def export(fit: FittedModel, columns: int) -> bytes:
    """Returns the model as an ONNX graph.

    It maps ``input`` [n, columns] of float32 to ``probability`` and ``risk_score``, each [n, 1].
    """
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
    # The converter lists them in arbitrary order; sorted, the same model is the same bytes.
    opsets = sorted(model.opset_import, key=lambda opset: str(opset.domain))
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    onnx.checker.check_model(model, full_check=True)
    exported: bytes = model.SerializeToString(deterministic=True)
    return exported


def _calibrate(graph: onnx.GraphProto, fit: FittedModel) -> None:
    """Adds the nodes that compute margin, p and score from the trees' probability."""
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
    """Returns p and risk_score, each [n], computed by ONNX Runtime for rows [n, features]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    probability, score = session.run([PROBABILITY, SCORE], {INPUT: x})
    return probability[:, 0], score[:, 0]


def parity(fit: FittedModel, exported: bytes, x: npt.NDArray[np.float32]) -> float:
    """Returns the largest difference between ONNX Runtime and LightGBM over the rows.

    Raises ParityError if it exceeds PARITY_TOLERANCE.
    """
    probability, score = run(exported, x)
    worst = max(
        float(np.abs(probability - fit.probability(x)).max()),
        float(np.abs(score - fit.score(x)).max()),
    )
    if not worst <= PARITY_TOLERANCE:
        raise ParityError(f"ONNX and LightGBM differ by {worst:.2e}, more than {PARITY_TOLERANCE}")
    return worst
