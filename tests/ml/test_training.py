"""Training is reproducible, and the exported graph equals the trained model."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from shutil import copytree
from typing import TYPE_CHECKING

import numpy as np
import pytest

from features.payment_risk import PAYMENT_RISK
from services.ml.simulation.parameters import DEMO_SEED
from services.ml.store.models import write_version
from services.ml.training.dataset import ProposalSource, build, world_rows
from services.ml.training.fit import SCORE_AT_THRESHOLD, fit
from services.ml.training.metrics import figures
from services.ml.training.release import Splits

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore"
    )  # the converters call deprecated functions of their dependencies
    from services.ml.training.__main__ import MODELS, check
    from services.ml.training.export import ParityError, export, parity, run

if TYPE_CHECKING:
    from pathlib import Path

    from services.ml.training.dataset import Rows
    from services.ml.training.fit import FittedModel

SEEDS = {"train": (1_000, 1_001), "validation": (2_000,), "calibration": (3_001,)}  # small worlds

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:UserWarning")


@pytest.fixture(scope="module")
def rows() -> dict[str, Rows]:
    with ThreadPoolExecutor(1) as pool:
        return {name: build(seeds, pool) for name, seeds in SEEDS.items()}


@pytest.fixture(scope="module")
def fitted(rows: dict[str, Rows]) -> FittedModel:
    return fit(rows["train"], rows["validation"], rows["calibration"])


@pytest.fixture(scope="module")
def graph(fitted: FittedModel) -> bytes:
    return export(fitted, len(PAYMENT_RISK.names))


def test_no_seed_is_in_two_splits_or_in_the_demonstration() -> None:
    splits = Splits()
    seeds = [*splits.train, *splits.validation, *splits.calibration, *splits.test]

    assert len(set(seeds)) == len(seeds)
    assert DEMO_SEED not in seeds
    assert len(splits.train) >= 20
    assert len(splits.validation) >= 5
    assert len(splits.calibration) >= 5
    assert len(splits.test) >= 10


def test_rows_are_labelled_by_their_recipient(rows: dict[str, Rows]) -> None:
    train = rows["train"]
    frauds = {"scam", "mule", "ransom", "takeover", "thief"}

    assert (train.fraud == np.isin(train.typology, sorted(frauds))).all()
    assert train.fraud[train.source == ProposalSource.SWAPPED_ILLICIT].all()
    assert not train.fraud[train.source == ProposalSource.SWAPPED_LICIT].any()
    assert 0.002 < train.made.fraud.mean() < 0.15


def test_rows_of_a_world_are_reproducible(rows: dict[str, Rows]) -> None:
    again = world_rows(SEEDS["validation"][0])

    assert np.array_equal(again.x, rows["validation"].x, equal_nan=True)


def test_training_is_reproducible(rows: dict[str, Rows], fitted: FittedModel) -> None:
    again = fit(rows["train"], rows["validation"], rows["calibration"])

    x = rows["validation"].x
    assert np.array_equal(again.score(x), fitted.score(x))


def test_exported_graph_equals_the_trained_model(
    rows: dict[str, Rows], fitted: FittedModel, graph: bytes
) -> None:
    assert parity(fitted, graph, rows["validation"].x) <= 1e-5


def test_graph_of_another_model_fails_the_parity_check(
    rows: dict[str, Rows], fitted: FittedModel, graph: bytes
) -> None:
    with pytest.raises(ParityError):
        parity(replace(fitted, platt_b=fitted.platt_b + 0.01), graph, rows["validation"].x)


def test_rows_at_thresholds_agree(fitted: FittedModel, graph: bytes) -> None:
    """ONNX stores thresholds as float32; rows on a threshold must not change sides."""
    x = np.full((0, len(PAYMENT_RISK.names)), np.nan, np.float32)
    for tree in fitted.trees.booster_.dump_model()["tree_info"]:
        nodes = [tree["tree_structure"]]
        while nodes:
            node = nodes.pop()
            if "threshold" in node:
                nodes += [node["left_child"], node["right_child"]]
            if node.get("threshold", np.inf) < 1e30:  # larger ones separate only NaN
                row = np.zeros((3, x.shape[1]), np.float32)
                at = np.float32(node["threshold"])
                row[:, node["split_feature"]] = (
                    at,
                    np.nextafter(at, np.float32(np.inf)),
                    np.nextafter(at, np.float32(-np.inf)),
                )
                x = np.concatenate([x, row])

    assert len(x) > 1_000
    assert parity(fitted, graph, x) <= 1e-5


def test_score_is_at_least_0_7_exactly_if_p_is_at_least_the_threshold(
    rows: dict[str, Rows], fitted: FittedModel
) -> None:
    x = rows["validation"].x
    p, score = fitted.probability(x), fitted.score(x)

    assert ((score >= SCORE_AT_THRESHOLD) == (p >= fitted.threshold)).all()


def test_threshold_refuses_one_percent_of_licit_payments(
    rows: dict[str, Rows], fitted: FittedModel
) -> None:
    licit = rows["validation"].made.where(~rows["validation"].made.fraud)

    assert (fitted.probability(licit.x) >= fitted.threshold).mean() == pytest.approx(0.01, abs=2e-3)


def test_earlier_payments_to_a_recipient_never_increase_the_score(
    rows: dict[str, Rows], graph: bytes
) -> None:
    x = rows["validation"].x[:500].copy()
    column = PAYMENT_RISK.names.index("pair_payments")
    scores = []
    for payments in range(12):
        x[:, column] = payments
        scores.append(run(graph, x)[1])

    assert (np.diff(np.stack(scores), axis=0) <= 1e-6).all()


def test_figures_of_a_perfect_and_of_a_useless_model(rows: dict[str, Rows]) -> None:
    sample = rows["train"]

    perfect = figures(sample, sample.fraud.astype(float), 0.5)
    useless = figures(sample, np.full(len(sample), 0.3), 0.5)

    assert perfect["average_precision"] == perfect["seen_auc"] == 1
    assert perfect["swap_illicit_refused"] == 1
    assert perfect["swap_licit_refused"] == perfect["lookalike_refused"] == 0
    assert useless["auc"] == pytest.approx(0.5)
    assert useless["fraud_refused"] == 0


@pytest.mark.parametrize("name", ["model.onnx", "paths.npz", "card.md"])
def test_check_fails_if_a_released_file_was_changed(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "payment-risk" / "1"
    copytree(MODELS / "payment-risk" / "1", changed)
    (changed / name).write_bytes((changed / name).read_bytes() + b" ")

    with ThreadPoolExecutor(1) as pool:
        assert check(changed, pool) == 1

    assert name in capsys.readouterr().err


def test_version_is_written_once(tmp_path: Path) -> None:
    write_version(tmp_path / "payment-risk" / "1", {"card.md": b"first"})

    with pytest.raises(FileExistsError, match="never changes"):
        write_version(tmp_path / "payment-risk" / "1", {"card.md": b"second"})

    assert (tmp_path / "payment-risk" / "1" / "card.md").read_bytes() == b"first"
    assert [path.name for path in (tmp_path / "payment-risk").iterdir()] == ["1"]
