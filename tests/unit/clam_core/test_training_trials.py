# SPDX-License-Identifier: Apache-2.0
"""What was tried for the demonstration model: the same folds for all, gains in pairs, told in the card."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clam_core.encoders import load_encoder
from clam_core.package import demo_package_path
from clam_core.training import trial_fits, trials
from clam_core.training.field_bags import fit_whitening
from clam_core.training.fields import Field, FieldFeatures
from clam_core.training.fine_tuning import FineTuning, FrozenBlocks, fine_tune
from clam_core.training.heldout import gain
from clam_core.training.stain import EOSIN, HAEMATOXYLIN, normalised, stain_vectors
from clam_core.training.stain import optical_density as density_of
from clam_core.training.trials_table import trials_table
from clam_core.training.views import CropPlan, field_views
from tests.unit.clam_core.test_training_fields import tissue


def separable(width: int = 6, per_fold: int = 6) -> list[FieldFeatures]:
    """Return fields whose classes differ in one feature, in two views."""
    rng = np.random.default_rng(0)
    fields = []
    for fold in range(5):
        for number in range(per_fold):
            label = number % 2
            views = rng.standard_normal((2, 4, width)).astype(np.float32)
            views[:, :, 0] += 6 * label
            fields.append(
                FieldFeatures(Field(Path(f"{fold}_{number}"), label, number, fold), (views[0], views[1]))
            )
    return fields


class Kept(trials.Fields):
    """Fields that are there already."""

    def __init__(self, fields: Sequence[FieldFeatures]) -> None:
        super().__init__(Path(), None)
        self.fields = list(fields)

    def of(self, source: trials.Source) -> list[FieldFeatures]:
        assert source.magnification == "400x"
        return self.fields


def test_a_trial_never_learns_from_the_fold_that_it_is_judged_on() -> None:
    seen: list[set[int]] = []

    def fit(fields: Sequence[FieldFeatures]) -> trial_fits.Judge:
        seen.append({item.field.fold for item in fields})
        return lambda patches: float(patches[:, 0].mean())

    row = trials.run(trials.Trial("a", "a", fit), Kept(separable()))
    assert seen == [{0, 1, 2, 3, 4} - {fold} for fold in range(5)]
    assert row["single_fields"]["folds"] == [1.0] * 5


@pytest.mark.parametrize(
    "fit", [trial_fits.logistic, trial_fits.logistic_on_originals, trial_fits.nested_logistic]
)
def test_a_logistic_regression_separates_what_can_be_separated(fit: trial_fits.Fit) -> None:
    row = trials.run(trials.Trial("a", "a", fit), Kept(separable()))
    assert row["single_fields"]["mean"] > 0.95
    assert row["single_fields_restained"]["mean"] > 0.9


def test_a_gain_is_beyond_the_spread_only_where_the_folds_agree() -> None:
    base = [0.5, 0.6, 0.9, 0.7, 0.4]
    assert gain([value + 0.02 for value in base], base)["beyond"]
    assert not gain([0.9, 0.6, 0.8, 0.8, 0.3], base)["beyond"]
    found = gain([0.6, 0.6, 0.9, 0.7, 0.4], base)
    assert (found["mean"], found["margin"]) == (0.02, pytest.approx(2.776 * 0.0447 / 5**0.5, abs=1e-3))


def row_of(title: str, folds: list[float], against: str) -> dict[str, object]:
    figures = {"mean": float(np.mean(folds)), "sd": 0.1, "folds": folds}
    return {
        "title": title,
        "against": against,
        "single_fields": figures,
        "blocks_of_four_fields": figures,
    }


def test_the_table_names_each_trial_and_those_that_gained_or_lost() -> None:
    rows = trials.compared(
        [
            row_of("plain", [0.5, 0.6, 0.7, 0.6, 0.5], "plain"),
            row_of("better", [0.6, 0.7, 0.8, 0.7, 0.6], "plain"),
            row_of("noisy", [0.9, 0.3, 0.7, 0.9, 0.2], "better"),
        ]
    )
    table = trials_table(rows)
    assert "| 2 | better | 0.68 +- 0.10 |  | 0.68 +- 0.10 | +0.10 +- 0.00 over 1 |" in table
    assert "over 2" in table
    assert table.endswith('better "better"; worse none.')


def test_a_run_goes_on_after_the_trials_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(trial: trials.Trial, _: trials.Fields) -> dict[str, object]:
        ran.append(trial.title)
        return row_of(trial.title, [0.5, 0.6, 0.7, 0.6, 0.5], trial.against)

    monkeypatch.setattr(trials, "run", run)
    arguments = ["--tiles", str(tmp_path), "--out", str(tmp_path / "trials.json")]
    trials.main(arguments)
    assert ran == [trial.title for trial in trials.TRIALS]
    first = (tmp_path / "trials.json").read_bytes()
    trials.main(arguments)
    assert len(ran) == len(trials.TRIALS)
    assert (tmp_path / "trials.json").read_bytes() == first


def test_every_trial_has_a_row_in_the_demonstration_models_card() -> None:
    rows = json.loads((demo_package_path() / "trials.json").read_text("utf-8"))
    assert [row["title"] for row in rows] == [trial.title for trial in trials.TRIALS]
    assert trials_table(rows) in (demo_package_path() / "MODEL_CARD.md").read_text("utf-8")


def test_whitened_features_have_no_direction_of_their_own() -> None:
    fields = separable(per_fold=40)
    whitening = fit_whitening(fields, directions=6)
    whitened = whitening.apply(np.concatenate([view for item in fields for view in item.views]))
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(6), atol=0.02)


def test_frozen_and_tunable_blocks_together_are_the_encoder() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    frozen = FrozenBlocks()
    found = frozen.tunable().encode(frozen.encode(tiles))
    wanted = load_encoder("efficientnet-lite0").encode(tiles)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_fine_tuning_learns_and_leaves_the_encoder_as_it_was() -> None:
    frozen = FrozenBlocks()
    rng = np.random.default_rng(0)
    directions = np.abs(rng.standard_normal((2, 1, frozen.dim))).astype(np.float32)
    fields = [
        FieldFeatures(
            Field(Path(str(number)), number % 2, number, 0),
            ((directions[number % 2] + rng.random((2, frozen.dim))).astype(np.float32),),
        )
        for number in range(8)
    ]
    before = frozen.tunable().encode(fields[0].views[0])
    judge = fine_tune(fields, frozen, FineTuning(epochs=1))
    scores = [judge(item.views[0]) for item in fields]
    assert min(scores[1::2]) > max(scores[0::2])
    np.testing.assert_array_equal(frozen.tunable().encode(fields[0].views[0]), before)


def test_a_normalised_tile_shows_the_textbooks_stains() -> None:
    tinted = (tissue(224) * np.array([0.75, 0.85, 1.0])).astype(np.uint8)
    found = stain_vectors(density_of(normalised(tinted)))
    assert found is not None
    wanted = np.stack([v / np.linalg.norm(v) for v in (HAEMATOXYLIN, EOSIN)])
    assert ((found * wanted).sum(axis=1) > 0.97).all()


@pytest.mark.parametrize(
    ("plan", "views"),
    [(CropPlan(), 4), (CropPlan(copies=0, normalised=True), 1), (CropPlan(copies=1), 2)],
)
def test_a_plan_says_how_many_views_there_are(plan: CropPlan, views: int, tmp_path: Path) -> None:
    Image.fromarray(tissue(224)).save(tmp_path / "a.png")
    found = list(field_views(tmp_path / "a.png", plan, np.random.default_rng(0)))
    assert [view.shape for view in found] == [(6, 112, 112, 3)] * views
