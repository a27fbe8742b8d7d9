# SPDX-License-Identifier: Apache-2.0
"""The demonstration model: folds and bags of neighbours, patches in other stains, figures that add up."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from clam_core.errors import ParameterError
from clam_core.models.clam import Clam, ClamShape
from clam_core.slides import Pixels
from clam_core.training.baseline import fit_logistic
from clam_core.training.field_bags import FieldBag, fit_scaler
from clam_core.training.fields import Field, FieldFeatures, blocks_of, field_features, read_fields
from clam_core.training.metrics import (
    auc,
    balanced_accuracy,
    bootstrap_auc,
    confusion,
    expected_calibration_error,
    fit_temperature,
    macro_auc,
    softmax,
)
from clam_core.training.stain import EOSIN, HAEMATOXYLIN, optical_density, restained, stain_vectors
from clam_core.training.views import CropPlan, unsqueezed
from tests.support.shared_data import shared_path


def tissue(side: int = 96, seed: int = 0) -> Pixels:
    """Draw pixels of two dyes in varying amounts, with some glass."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(1.0, 0.6, size=(side * side, 2))
    amounts[: side * side // 10] = 0.0
    density = amounts @ np.stack([HAEMATOXYLIN, EOSIN])
    light: NDArray[np.float64] = np.clip(250 * np.exp(-density), 0, 255)
    return light.astype(np.uint8).reshape(side, side, 3)


def test_the_two_dyes_are_found_again() -> None:
    found = stain_vectors(optical_density(tissue()))
    assert found is not None
    wanted = np.stack([v / np.linalg.norm(v) for v in (HAEMATOXYLIN, EOSIN)])
    assert ((found * wanted).sum(axis=1) > 0.97).all()


def test_glass_has_no_dyes_and_stays_as_it_is() -> None:
    glass = np.full((64, 64, 3), 240, np.uint8)
    assert stain_vectors(optical_density(glass)) is None
    np.testing.assert_array_equal(restained(glass, np.random.default_rng(0)), glass)


def test_other_stains_change_the_colour_and_leave_the_glass_light() -> None:
    tile = tissue()
    shown = restained(tile, np.random.default_rng(3))
    assert shown.shape == tile.shape
    assert np.abs(shown.astype(int) - tile).mean() > 3
    assert shown.reshape(-1, 3)[: 96 * 96 // 10].min() > 200


def test_the_same_seed_gives_the_same_stains() -> None:
    first, second = (restained(tissue(), np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class MeanColour:
    """An encoder whose vectors are the mean colour of a tile."""

    name, dim, input_px, sha256 = "mean-colour", 3, 8, "0"

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, tiles: Pixels) -> NDArray[np.float32]:
        self.calls += 1
        means: NDArray[np.float32] = tiles.mean(axis=(1, 2)).astype(np.float32)
        return means


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve fields of two labels in three folds; one carries both labels, one is a copy."""
    rows = []
    for label in ("Normal", "OSCC"):
        for number in range(6):
            name = f"{label}_{number}.png"
            Image.fromarray(tissue(224, seed=number)).save(tmp_path / name)
            rows.append(
                [
                    name,
                    label,
                    "400x",
                    number,
                    number // 2,
                    int(name == "OSCC_5.png"),
                    int(name == "OSCC_4.png"),
                ]
            )
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(
            ["file", "label", "magnification", "number", "block_fold", "duplicate", "label_conflict"]
        )
        table.writerows(rows)
    return tmp_path


def test_fields_with_two_labels_and_copies_are_left_out(folder: Path) -> None:
    fields = read_fields(folder, "400x")
    assert [(field.label, field.number) for field in fields] == [(0, n) for n in range(6)] + [
        (1, n) for n in range(4)
    ]


def test_a_magnification_without_fields_is_refused(folder: Path) -> None:
    with pytest.raises(ParameterError, match="100x"):
        read_fields(folder, "100x")


def test_a_folder_without_the_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"labels\.csv"):
        read_fields(tmp_path, "400x")


def test_the_data_set_has_the_folds_that_its_readme_describes() -> None:
    fields = read_fields(shared_path("tiles/oral-scc-rahman2020"), "400x")
    assert len(fields) == 672
    for label in (0, 1):
        folds = [field.fold for field in fields if field.label == label]
        assert folds == sorted(folds)
        assert set(folds) == set(range(5))


def test_a_field_gets_its_aspect_ratio_back(folder: Path) -> None:
    assert unsqueezed(folder / "OSCC_0.png").shape == (224, 299, 3)


def test_every_view_of_a_field_is_encoded_once_and_kept(folder: Path, tmp_path: Path) -> None:
    encoder, plan = MeanColour(), CropPlan(copies=2)
    fields = read_fields(folder, "400x")[:2]
    first = field_features(fields, encoder, plan, tmp_path / "cache")
    assert [len(item.views) for item in first] == [3, 3]
    assert all(view.shape == (6, 3) for item in first for view in item.views)
    calls = encoder.calls
    second = field_features(fields, encoder, plan, tmp_path / "cache")
    assert encoder.calls == calls
    for before, after in zip(first, second, strict=True):
        for one, other in zip(before.views, after.views, strict=True):
            np.testing.assert_array_equal(one, other)


def fields_of(numbers: list[tuple[int, int, int]]) -> list[FieldFeatures]:
    rng = np.random.default_rng(0)
    return [
        FieldFeatures(
            Field(Path(f"{label}_{number}"), label, number, fold),
            tuple(rng.standard_normal((2, 5)).astype(np.float32) for _ in range(2)),
        )
        for label, fold, number in numbers
    ]


@given(
    st.sets(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 99)), min_size=1),
    st.integers(1, 6),
)
def test_a_bag_never_mixes_labels_or_folds_and_no_field_is_lost(
    numbers: set[tuple[int, int, int]], size: int
) -> None:
    blocks = blocks_of(fields_of(sorted(numbers)), size)
    assert sum(map(len, blocks)) == len(numbers)
    for block in blocks:
        assert len(block) <= size
        assert len({(item.field.label, item.field.fold) for item in block}) == 1
        order = [item.field.number for item in block]
        assert order == sorted(order)


def test_a_bag_is_whole_in_tests_and_a_run_of_its_fields_in_training() -> None:
    fields = fields_of([(0, 0, number) for number in range(4)])
    bag = FieldBag(tuple(fields), fit_scaler(fields))
    assert bag.features(None).shape == (8, 5)
    rng = np.random.default_rng(0)
    assert {len(bag.features(rng)) for _ in range(60)} == {2, 4, 6, 8}


def test_a_scaler_folded_into_the_network_changes_nothing() -> None:
    fields = fields_of([(0, 0, number) for number in range(9)])
    scaler = fit_scaler(fields)
    network = Clam(ClamShape(5, 2)).eval()
    raw = np.concatenate([view for item in fields for view in item.views])
    before = network(torch.from_numpy(scaler.apply(raw))).logits
    scaler.fold_into(network)
    torch.testing.assert_close(network(torch.from_numpy(raw)).logits, before, atol=1e-5, rtol=0)


def test_logistic_regression_separates_what_a_line_separates() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    vectors = (rng.standard_normal((200, 4)) + 3.0 * labels[:, None]).astype(np.float32)
    assert auc(labels[100:], fit_logistic(vectors[:100], labels[:100]).scores(vectors[100:])) > 0.99


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=2, max_size=60))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([float(row[1]) for row in rows])
    positive, negative = scores[labels == 1], scores[labels == 0]
    if len(positive) and len(negative):
        pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
        assert auc(labels, scores) == pytest.approx(np.mean(pairs))
    else:
        assert np.isnan(auc(labels, scores))


def test_the_interval_holds_the_value_and_narrows_with_more_bags() -> None:
    rng = np.random.default_rng(0)

    def interval(count: int) -> float:
        labels = rng.integers(0, 2, count)
        scores = rng.standard_normal(count) + labels
        found = bootstrap_auc(labels, np.stack([-scores, scores], axis=1), draws=300)
        assert found.low < found.value < found.high
        return found.high - found.low

    assert interval(1000) < interval(50)


def test_more_than_two_classes_are_measured_one_against_the_rest() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert macro_auc(labels, np.eye(3)[labels]) == 1.0


def test_balanced_accuracy_weighs_classes_not_bags() -> None:
    labels, predicted = np.array([0] * 98 + [1] * 2), np.zeros(100, int)
    assert balanced_accuracy(labels, predicted) == 0.5
    np.testing.assert_array_equal(confusion(labels, predicted, 2), [[98, 0], [2, 0]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_miscalibrated_logits_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20000, 2)) * 2
    labels = (rng.random(20000) < softmax(logits)[:, 1]).astype(int)
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.1)


def test_calibration_error_is_the_gap_between_sureness_and_truth() -> None:
    sure = np.tile([[0.95, 0.05]], (100, 1))
    labels = np.array([0] * 70 + [1] * 30)
    assert expected_calibration_error(sure, labels) == pytest.approx(0.25)
