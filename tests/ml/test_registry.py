"""The released model: its predictions, and the checks that nothing else is served."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from features.payment_risk import PAYMENT_RISK, extract
from mesh.settings import ConfigError
from services.ml.config import MODELS
from services.ml.manifest import MANIFEST, digest, parse
from services.ml.registry import ModelRegistry
from services.ml.simulation.demonstration import illicit_recipient, licit_recipient
from services.ml.store.models import read_model, read_models
from tests.ml.conftest import demo, facts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from services.ml.model import Model

NAME = "payment-risk"
MARK = 0.7


@pytest.fixture(scope="module")
def model() -> Model:
    found = read_models(MODELS).find(NAME)
    assert found
    return found


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the newest released version, which tests may damage."""
    newest = max((MODELS / NAME).iterdir(), key=lambda path: int(path.name))
    return shutil.copytree(newest, tmp_path / NAME / newest.name)


@pytest.mark.parametrize("amount_sat", [10_000_000, 25_000_000, 50_000_000])
@pytest.mark.parametrize("linked_for", [0, 6, 60, 200])
def test_model_accepts_the_shop_and_refuses_the_scam(
    model: Model, amount_sat: int, linked_for: int
) -> None:
    world, _ = demo()

    shop = model.predict(proposal(licit_recipient(world), amount_sat, linked_for))
    scam = model.predict(proposal(illicit_recipient(world), amount_sat, linked_for))

    assert shop.risk_score < 0.3
    assert not shop.over_threshold
    assert scam.risk_score >= 0.8
    assert scam.over_threshold
    assert shop.out_of_range == scam.out_of_range == 0


def test_contributions_add_up_to_the_score(model: Model) -> None:
    prediction = model.predict(proposal(illicit_recipient(demo()[0]), 10_000_000, 30))

    logit = prediction.baseline + prediction.contributions.sum()

    assert 1 / (1 + np.exp(-logit)) == pytest.approx(prediction.risk_score, abs=1e-5)


def test_value_outside_the_training_range_is_counted(model: Model) -> None:
    row = proposal(licit_recipient(demo()[0]), 10_000_000, 30)
    row[PAYMENT_RISK.names.index("recipient_receipts")] = 1e6

    assert model.predict(row).out_of_range == 1


def test_newest_version_is_used_if_none_is_named(model: Model) -> None:
    registry = read_models(MODELS)

    assert registry.find(NAME, registry.versions(NAME)[-1]) == registry.find(NAME)
    assert registry.find(NAME, "999") is None
    assert registry.find("other") is None


def test_newest_version_has_the_highest_number(model: Model) -> None:
    versions = [with_version(model, version) for version in ("10", "9", "2")]

    registry = ModelRegistry(versions)

    assert registry.versions(NAME) == ["2", "9", "10"]
    assert registry.find(NAME) is versions[0]


@pytest.mark.parametrize("name", ["model.onnx", "paths.npz", "card.md"])
def test_flipped_bit_in_any_file_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)

    with pytest.raises(ConfigError, match=f"{name} is not the file that was released"):
        read_model(copy)


def test_missing_or_additional_file_is_refused(copy: Path) -> None:
    (copy / "card.md").rename(copy / "notes.md")

    with pytest.raises(ConfigError, match=r"card\.md, notes\.md"):
        read_model(copy)


def edit_hash(manifest: dict[str, Any]) -> None:
    manifest["feature_set"]["hash"] = "00" * 32


def edit_golden(manifest: dict[str, Any]) -> None:
    manifest["golden"][3]["risk_score"] += 1e-3


def edit_width(manifest: dict[str, Any]) -> None:
    manifest["golden"][0]["row"].pop()


def edit_version(manifest: dict[str, Any]) -> None:
    manifest["version"] = "99"


def edit_ranges(manifest: dict[str, Any]) -> None:
    del manifest["ranges"]["recipient_seen"]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (edit_hash, "train a new version"),
        (edit_golden, "answers differ"),
        (edit_width, "malformed"),
        (edit_version, "another's directory"),
        (edit_ranges, "malformed"),
    ],
)
def test_inconsistent_manifest_is_refused(
    copy: Path, edit: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    manifest = json.loads((copy / MANIFEST).read_bytes())
    edit(manifest)
    (copy / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(ConfigError, match=complaint):
        read_model(copy)


def test_invalid_graph_with_a_correct_hash_is_refused(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"not a graph")
    manifest = json.loads((copy / MANIFEST).read_bytes())
    sha256, size = digest(b"not a graph")
    manifest["files"]["model.onnx"] = {"sha256": sha256, "size": size}
    (copy / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(ConfigError, match="cannot be served"):
        read_model(copy)


def test_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ANYA_MODELS"):
        read_models(tmp_path)


def test_card_states_the_models_limits_and_features() -> None:
    for directory in (MODELS / NAME).iterdir():
        manifest = parse((directory / MANIFEST).read_bytes())
        card = (directory / "card.md").read_text()

        assert "It has never seen a real fraud" in card
        assert manifest.feature_set_hash in card
        assert all(name in card for name in manifest.features)


def proposal(slot: int, amount_sat: int, linked_for: int) -> npt.NDArray[np.float32]:
    return PAYMENT_RISK.vector(extract(facts(slot, amount_sat=amount_sat, linked_for=linked_for)))


def with_version(model: Model, version: str) -> Model:
    return replace(model, version=version)
